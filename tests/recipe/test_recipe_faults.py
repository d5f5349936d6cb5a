"""Every mistake of a recipe is listed at once, with its line and the way out."""

import pytest

from xtune import RecipeError, load_recipe

READ_BASE = "from mmengine.config import read_base\nwith read_base():\n"


def faults(path, overrides=None) -> list[str]:
    """The lines of the error, the file's name without its folder."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    head, *lines = str(caught.value).split("\n")
    count = "a fault" if len(lines) == 1 else f"{len(lines)} faults"
    assert head.endswith(f"has {count}:")
    return [line.strip().replace(f"{path.parent}/", "") for line in lines]


def test_all_mistakes_at_once_in_order(write):
    recipe = write(
        "r.py",
        """model = dict(path="smollm2", familly="auto")
method = dict(kind="lroa", rnak=8, dropout=1)
data = dict(
    sources=[
        dict(path=3),
        {"format": "auto"},
    ],
    packing="perhaps",
)
train = dict(steps=10, epochs=1)
train["lr"] = -1
train.update(
    schedule="cosin",
    micro_batch_size=3,
    rank=4,
)
epochs = 3
modle = dict()
""",
    )
    assert faults(recipe) == [
        "r.py:1: model.familly: unknown option; did you mean family?",
        'r.py:2: method.kind: \'lroa\' is not allowed; give "full", "lora" or "qlora"; did you mean lora?',
        "r.py:2: method.dropout: 1 is not allowed; give a number at least 0 and below 1",
        'r.py:2: method.rnak: unknown option of kind "lora"; did you mean rank?',
        "r.py:5: data.sources.0.path: 3 is not allowed; give a string",
        "r.py:6: data.sources.1.path: missing; give a string",
        "r.py:8: data.packing: 'perhaps' is not allowed; give True or False",
        "r.py:10: train.steps: give steps or epochs, not both",
        "r.py:11: train.lr: -1 is not allowed; give a number above 0, or None",
        "r.py:13: train.schedule: 'cosin' is not allowed; "
        'give "cosine", "linear", "constant" or "wsd"; did you mean cosine?',
        "r.py:14: train.micro_batch_size: 3 does not divide batch_size 8",
        "r.py:15: train.rank: unknown option; it is an option of method",
        "r.py:17: epochs: unknown section; it is an option of train",
        "r.py:18: modle: unknown section; did you mean model?",
    ]


def test_options_of_method_and_train_that_do_not_go_together(write, minimal):
    method = """method = dict(kind="qlora", bits=3,
    init="olora")
"""
    train = """train = dict(decay=0.2,
    warmup=1.5)
"""
    assert faults(write("r.py", minimal + method + train)) == [
        "r.py:5: method.bits: 3 is not allowed; give 4 or 8",
        'r.py:6: method.init: "olora" changes the base weights, which are quantised here; use lora',
        'r.py:7: train.decay: only schedule = "wsd" has a decay of its own',
        "r.py:8: train.warmup: give a share below 1, or a whole number of steps",
    ]
    method = """method = dict(kind="lora", init="svd",
    targets=".*(q_proj",
    layers=[])
"""
    assert faults(write("s.py", minimal + method)) == [
        's.py:5: method.init: \'svd\' is not allowed; give "default", "gaussian", "pissa", "olora" or "loftq"',
        "s.py:6: method.targets: '.*(q_proj' is no valid regex: missing ), unterminated subpattern at position 2",
        "s.py:7: method.layers: [] is not allowed; give a list of whole numbers not empty, or None",
    ]
    method = 'method = dict(kind="lora", targets=".*q_proj",\n    layers=[1])\n'
    assert faults(write("t.py", minimal + method)) == [
        "t.py:6: method.layers: a regex says in which layers; give layers with other targets"
    ]
    assert faults(write("v.py", minimal + 'method = dict(kind="lora", init="loftq")\n')) == [
        'v.py:5: method.init: "loftq" makes good what 4 bits lose; use qlora with bits = 4'
    ]
    assert faults(write("u.py", minimal + 'method = dict(kind="qlora", bits=8, dora=True)\n')) == [
        "u.py:5: method.dora: dora restores the weights, which bitsandbytes cannot from 8 bits on a CPU; "
        "use bits = 4"
    ]


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (
            "train = dict(batch_tokens=64,\n    batch_size=8)",
            "5: train.batch_tokens: give batch_tokens or batch_size, and None for the other",
        ),
        (
            "train = dict(batch_tokens=64,\n    micro_batch_size=2)",
            "6: train.micro_batch_size: with batch_tokens, a forward pass takes up to data.max_length; leave it out",
        ),
        (
            "data.update(group_by_length=True)",
            "5: data.group_by_length: packed rows have no padding to save; set packing = False",
        ),
        ("train = dict(steps=5, warmup=5)", "5: train.warmup: all 5 steps would be warm-up"),
        (
            "method = dict(kind='qlora', bits=8, double_quantization=True)",
            "5: method.double_quantization: 8 bits have no constants to quantise again",
        ),
        (
            "train = dict(seed=-1)",
            "5: train.seed: -1 is not allowed; give a whole number at least 0 and below 4294967296",
        ),
        (
            "train = dict(seed=2**32)",
            "5: train.seed: 4294967296 is not allowed; give a whole number at least 0 and below 4294967296",
        ),
        (
            "data['sources'][0].update(condition='')",
            "5: data.sources.0.condition: '' is not allowed; give a string not empty, or None",
        ),
        (
            "train = dict(objective='pretrain')\ndata['sources'].append(dict(path='b', system='Hi'))",
            "4: data: sources.1.system is a system prompt, which the documents of pretrain have not",
        ),
        (
            "train = dict(objective='pretrain')\ndata['sources'][0].update(condition='Hi')",
            "4: data: sources.0.condition is a system prompt, which the documents of pretrain have not",
        ),
        (
            "method = dict(kind='full')\nmodel.update(dtype='float16')",
            "2: model: float16 is for weights that stay as they are: small steps are lost in it, and AdamW's divisors "
            'are 0; full training needs dtype = "auto"',
        ),
    ],
)
def test_options_that_would_do_nothing_or_harm(write, minimal, sections, expected):
    assert faults(write("r.py", minimal + sections)) == [f"r.py:{expected}"]


def test_none_takes_back_what_a_recipe_gives(write, minimal):
    text = "train = dict(batch_size=6, micro_batch_size=2)\nmethod = dict(kind='qlora', double_quantization=True)"
    recipe = write("r.py", minimal + text)
    tokens = {"train.batch_tokens": 64, "train.batch_size": None, "train.micro_batch_size": None}
    loaded = load_recipe(recipe, {**tokens, "method.bits": 8, "method.double_quantization": None})
    assert (loaded.train.batch_size, loaded.train.batch_tokens, loaded.method.bits) == (None, 64, 8)
    assert load_recipe(recipe, {"train.batch_size": None}).train.batch_size == 8


def test_a_default_is_not_blamed_for_a_faulty_value(write, minimal):
    recipe = write("r.py", minimal + "train = dict(batch_size=0, micro_batch_size=3)")
    assert faults(recipe) == [
        "r.py:5: train.batch_size: 0 is not allowed; give a whole number at least 1, or None"
    ]


@pytest.mark.parametrize("value", ['float("inf")', 'float("nan")'])
def test_numbers_are_finite(write, minimal, value):
    assert "train.lr" in faults(write("r.py", minimal + f"train = dict(lr={value})"))[0]


def test_missing_sections_show_what_to_write(write):
    assert faults(write("r.py", "train = dict(lr=1)")) == [
        'model: missing; write for example model = dict(path="smollm2")',
        'method: missing; write for example method = dict(kind="lora")',
        'data: missing; write for example data = dict(sources=[dict(path="train.jsonl")])',
    ]


def test_line_of_a_fault_in_a_base_file(write, minimal):
    write("parts/method.py", 'method = dict(\n    kind="lora",\n    rank=0,\n)\ntrain = dict(epochs=2)\n')
    body = "    from .parts.method import *\n" + minimal.replace('method = dict(kind="lora")', "")
    assert faults(write("r.py", READ_BASE + body + "train.update(steps=3)\n")) == [
        "parts/method.py:3: method.rank: 0 is not allowed; give a whole number at least 1",
        "r.py:8: train.steps: give steps or epochs, not both",
    ]


@pytest.mark.parametrize("function", ["lambda row: row", "_outer()", "_Callable()", "_Callable"])
def test_a_function_that_cannot_be_found_again_is_a_fault(write, minimal, function):
    text = """
def _outer():
    def inner(row):
        return row
    return inner
class _Callable:
    def __call__(self, row):
        return row
"""
    recipe = write("r.py", text + minimal.replace(")])", f",\n    format={function})])"))
    assert faults(recipe) == [
        "r.py:13: data.sources.0.format: a function must stand in the recipe or a file of its own, "
        "by `def` and not inside another one"
    ]


def test_defects_and_their_actions(write, minimal):
    defects = "data.update(defects=dict(\n    medium='drop',\n    media='repair',\n    no_loss=3))\n"
    sources = "data['sources'][0].update(weight=1,\n    count=2)\n"
    assert faults(write("r.py", minimal + defects + sources)) == [
        "r.py:6: data.defects.medium: unknown option; did you mean media?",
        'r.py:7: data.defects.media: \'repair\' is not allowed; give "drop" or "stop"',
        'r.py:8: data.defects.no_loss: 3 is not allowed; give "drop" or "stop"',
        "r.py:9: data.sources.0.weight: give weight or count, not both",
    ]


def test_overrides_are_checked_too(write, minimal):
    lines = faults(
        write("r.py", minimal),
        {
            "train.lrr": 1,
            "data.sources.3.path": "x",
            "method.rank.deep": 1,
            "probe.max_new_tokens": 0,
            "a.0": 1,
        },
    )
    assert len(lines) == 5
    assert all(line.startswith("override: ") for line in lines)
    assert "override: train.lrr: unknown option; did you mean lr?" in lines
    assert any("data.sources has 1 items" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model = dict(\n  path='x'\nmethod = 3", "r.py:1: not valid Python: "),
        (
            READ_BASE + "    from .parts.lroa import *",
            "r.py:3: there is no base file parts/lroa.py; did you mean lora?",
        ),
        (READ_BASE + "    from xtune.configs.a import *", "r.py:3: base xtune.configs.a must be relative"),
        (READ_BASE + "    from .parts.lora import methd", "no base file defines 'methd'"),
        ("def _f(**k): return k\ntrain = _f(anything=1)\nx", "r.py:3: x: not defined"),
        (READ_BASE * 2 + "    pass", "not valid Python"),
        (READ_BASE + "    pass\nwith read_base():\n    pass", "r.py:4: a second `with read_base():`"),
        (READ_BASE + "    import os", "r.py:3: here stand only lines like `from "),
        (READ_BASE + "    from .r import *", "r.py:3: base files name each other in a circle"),
        ("from .parts.lora import *", "r.py:1: a base file is imported in the block `with read_base():`"),
        ("with open('x') as f: pass", "r.py:1: the only `with`"),
        ("model = dict()\nx = 1 / 0", "r.py:2: ZeroDivisionError: division by zero"),
        ("train.update(lr=1)", "r.py:1: no base file has `train` to update; write train = dict(...)"),
        ("modle.update(path=1)", "did you mean model?"),
        (
            "train = dict()\ntrain.lr = 3",
            "r.py:2: AttributeError: 'dict' object has no attribute 'lr'; a section is a plain dict",
        ),
        ("import nowhere\nx = nowhere.y()", "r.py:2: what a recipe imports is only a name"),
    ],
)
def test_recipe_that_cannot_run(write, text, expected):
    write("parts/lora.py", "method = dict(kind='lora')")
    lines = faults(write("r.py", text))
    assert len(lines) == 1
    assert expected in lines[0]


def test_not_text(tmp_path):
    (tmp_path / "r.py").write_bytes(b"name = '\xff'")
    assert "not UTF-8" in faults(tmp_path / "r.py")[0]


def test_a_recipe_that_cannot_run_shows_its_other_faults_too(write):
    text = """from mmengine.config import read_base
with read_base():
    from .nowhere import *
model = dict(path="smollm2", familly="auto")
_x = dict(anything=1)
method.update(rank=-1, alpha=float(3))
data = dict(sources=[dict(path=f"{1}.jsonl"), dict(path=2)])
trian.update(steps=3)
train.update(lr="high")
"""
    values = [
        "r.py:4: model.familly: unknown option; did you mean family?",
        "r.py:6: method.rank: -1 is not allowed; give a whole number at least 1",
        "r.py:7: data.sources.1.path: 2 is not allowed; give a string",
        "r.py:8: trian: unknown section; did you mean train?",
        "r.py:9: train.lr: 'high' is not allowed; give a number above 0, or None",
    ]
    assert faults(write("r.py", text)) == ["r.py:3: there is no base file nowhere.py", *values]
    write("nowhere.py", "method = dict(kind='lora')")
    assert faults(write("r.py", text)) == values  # that `trian` is unknown says why it does not run
