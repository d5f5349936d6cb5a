"""What a recipe file becomes: bases, overrides, paths, names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xtune import RecipeError, UsageError, load_recipe
from xtune.data.read import iterate_mapped
from xtune.data.report import DataReport
from xtune.recipe.catalog import shipped_recipes
from xtune.recipe.overrides import parse_overrides
from xtune.recipe.write import recipe_source

SMOLLM2 = [name for name, file in shipped_recipes().items() if file.parent.name == "smollm2"]


@pytest.mark.parametrize("name", SMOLLM2)
def test_recipe_of_the_embedded_model_has_its_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.model.path == "smollm2"
    assert all(os.path.isabs(s.path) and os.path.isfile(s.path) for s in recipe.data.sources)
    assert recipe.probe.prompts


def test_recipes_of_the_embedded_model_differ_in_method_and_rate():
    assert {n: (load_recipe(n).method.kind, load_recipe(n).train.lr) for n in SMOLLM2} == {
        "smollm2_full": ("full", 5e-5),
        "smollm2_lora": ("lora", 1e-3),
        "smollm2_lora_dpo": ("lora", 2e-4),
        "smollm2_qlora": ("qlora", 1e-3),
    }


def test_defaults_and_name(write, minimal):
    file = write("mine.py", minimal)
    recipe = load_recipe(file)
    assert (recipe.name, recipe.train.lr, recipe.method.rank) == ("mine", 2e-4, 16)
    assert load_recipe(str(file)) == recipe


def test_bases_in_other_folders_and_renamed(write):
    write("parts/a/model.py", 'model = dict(path="base", dtype="float32")')
    write(
        "parts/b.py", "from mmengine.config import read_base\nwith read_base():\n    from .a.model import *\n"
    )
    write("methods/lora.py", 'small = dict(kind="lora", rank=4)\n_hidden = 3\n')
    recipe = write(
        "own/recipes/r.py",
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from ...parts.b import *\n"
        "    from ...methods.lora import small as method\n"
        "def _double(x): return 2 * x\n"
        "method.rank = _double(8)\n"
        "model.update(dtype='bfloat16')\n"
        "data = {'sources': [{'path': 'x.jsonl'}]}\n"
        "data['max_length'] = 50 * 2\n",
    )
    loaded = load_recipe(recipe)
    assert (loaded.model.path, loaded.model.dtype) == ("base", "bfloat16")
    assert (loaded.method.kind, loaded.method.rank) == ("lora", 16)
    assert (loaded.data.sources[0].path, loaded.data.max_length) == ("x.jsonl", 100)


def test_overrides_replace_values_and_items(write, minimal):
    recipe = load_recipe(
        write("r.py", minimal),
        {
            "train.lr": 1,
            "data.sources.0.limit": 5,
            "probe.prompts": ("a", "b"),
            "name": "other",
            "model.path": Path("m"),
        },
    )
    assert (recipe.train.lr, recipe.data.sources[0].limit, recipe.probe.prompts) == (1, 5, ["a", "b"])
    assert (recipe.name, recipe.model.path) == ("other", "m")


def test_set_values_are_python_or_text():
    texts = ["train.lr=1e-4", "model.path=a=b", "train.steps=none", "data.packing=False", "data.packing=true"]
    assert parse_overrides(
        [
            *texts,
            "name=2024",
            "model.family=None",
            "probe.prompts.0=none",
            "probe.prompts=['Hi', \"it's\"]",
            "probe.system='2'",
        ]
    ) == {
        "train.lr": 1e-4,
        "model.path": "a=b",
        "train.steps": None,
        "data.packing": True,
        "name": "2024",
        "model.family": "None",
        "probe.prompts.0": None,
        "probe.prompts": ["Hi", "it's"],
        "probe.system": "2",
    }
    with pytest.raises(UsageError, match=r"train\.lr"):
        parse_overrides(["train.lr"])


def test_data_path_starts_at_the_file_that_states_it(write, tmp_path, monkeypatch):
    """Not at the recipe's folder, though a file of that name is there too."""
    write("base/data.py", 'data = dict(sources=[dict(path="rows.jsonl"), dict(path="second.jsonl")])')
    text = "from mmengine.config import read_base\nwith read_base():\n    from ..base.data import *\n"
    recipe = write("own/r.py", text + 'model = dict(path="m")\nmethod = dict(kind="full")\n')
    for place in (
        "base/rows.jsonl",
        "own/rows.jsonl",
        "own/second.jsonl",
        "elsewhere/over.jsonl",
        "own/over.jsonl",
    ):
        write(place, "{}")
    monkeypatch.chdir(write("elsewhere/x", "").parent)
    paths = [s.path for s in load_recipe(recipe).data.sources]
    assert paths == [str(tmp_path / "base/rows.jsonl"), str(tmp_path / "own/second.jsonl")]
    overridden = load_recipe(
        recipe, {"data.sources.0.path": "over.jsonl", "data.sources.1": {"path": "none.jsonl"}}
    )
    assert [s.path for s in overridden.data.sources] == [str(tmp_path / "elsewhere/over.jsonl"), "none.jsonl"]


def test_data_path_in_the_current_directory_and_nowhere(write, minimal, tmp_path, monkeypatch):
    file = write("mine.py", minimal)
    monkeypatch.chdir(write("here/x", "").parent)
    assert load_recipe(file).data.sources[0].path == "rows.jsonl"
    write("here/rows.jsonl", "{}")
    assert load_recipe(file).data.sources[0].path == str(tmp_path / "here/rows.jsonl")
    write("rows.jsonl", "{}")
    assert load_recipe(file).data.sources[0].path == str(tmp_path / "rows.jsonl")


def test_data_path_may_be_a_directory_or_a_name_on_the_hub(write, minimal, tmp_path):
    paths = ["shards", "owner/name", "owner/here", ""]
    write("shards/1.jsonl", "{}")
    write("owner/here/1.jsonl", "{}")
    file = write("r.py", minimal + f"data = dict(sources=[dict(path=path) for path in {paths}])\n")
    found = [source.path for source in load_recipe(file).data.sources]
    assert found == [str(tmp_path / "shards"), "owner/name", str(tmp_path / "owner/here"), ""]


FUNCTION = "def to_sample(row):\n    return dict(instruction=row['q'], output=row['a'])\n"


def read_all(recipe):
    """The answers in all sources, read as the recipe says."""
    mapped = [
        iterate_mapped(source, DataReport(), actions=recipe.data.defects.model_dump())
        for source in recipe.data.sources
    ]
    return [sample.messages[-1].content for one in mapped for _, samples in one for sample in samples]


def test_a_function_of_the_recipe_is_a_format(write, minimal, tmp_path, monkeypatch):
    write("rows.jsonl", '{"q": "q", "a": "a"}')
    file = write(
        "r.py", minimal.replace(")])", ", format=to_sample)])").replace("\nmodel", FUNCTION + "\nmodel")
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("r.py")
    assert recipe.data.sources[0].format == f"{file}:to_sample"
    assert read_all(recipe) == ["a"]
    elsewhere = write("runs/1/recipe.py", recipe_source(recipe))
    assert load_recipe(elsewhere) == recipe


def test_a_function_of_a_base_file_is_a_format(write, tmp_path):
    write("base/rows.jsonl", '{"q": "q", "a": "a"}')
    base = FUNCTION + 'data = dict(sources=[dict(path="rows.jsonl", format=to_sample)])\n'
    file = write("base/data.py", base + 'model = dict(path="m")\nmethod = dict(kind="full")\n')
    bases = "from mmengine.config import read_base\nwith read_base():\n    from ..base.data import *\n"
    again = "data.sources.append(dict(path='../base/rows.jsonl', format=to_sample))\n"
    recipe = load_recipe(write("own/r.py", bases + again))
    assert [source.format for source in recipe.data.sources] == [f"{file}:to_sample"] * 2
    assert read_all(recipe) == ["a", "a"]


def test_a_function_in_a_file_starts_at_the_recipe_as_paths_do(write, minimal, tmp_path, monkeypatch):
    def format_of(reference, **overrides):
        file = write("own/r.py", minimal.replace(")])", f", format={reference!r})])"))
        return load_recipe(file, overrides).data.sources[0].format

    program = write("own/my_format.py", FUNCTION)
    here = write("here/my_format.py", FUNCTION)
    monkeypatch.chdir(tmp_path / "here")
    assert format_of("my_format.py:to_sample") == f"{program}:to_sample"
    assert format_of(f"{here}:to_sample") == f"{here}:to_sample"
    assert format_of("alpaca", **{"data.sources.0.format": "my_format.py:to_sample"}) == f"{here}:to_sample"
    assert format_of("other.py:to_sample") == "other.py:to_sample"
    assert format_of("alpaca") == "alpaca"


def test_a_function_as_override(write, minimal, monkeypatch):
    file, name = write("r.py", minimal), "data.sources.0.format"
    assert load_recipe(file, {name: read_all}).data.sources[0].format == f"{__file__}:read_all"
    monkeypatch.setattr(read_all, "__module__", "__main__")
    for function in (lambda row: row, read_all):
        with pytest.raises(RecipeError, match=r"override: data\.sources\.0\.format: a function must stand"):
            load_recipe(file, {name: function})


def test_model_directory_is_made_absolute_but_a_name_is_left_alone(write, minimal, tmp_path):
    file = write("mine.py", minimal)
    (tmp_path / "smollm2").mkdir()
    assert load_recipe(file).model.path == "smollm2"
    write("qwen/config.json", "{}")
    assert load_recipe(write("r.py", minimal.replace('"smollm2"', '"qwen"'))).model.path == str(
        tmp_path / "qwen"
    )


def test_unknown_recipe_names_the_nearest(write, minimal, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="did you mean smollm2_lora"):
        load_recipe("smolm2_lora")
    write("recipe.py", minimal)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"did you mean recipe\.py"):
        load_recipe("recpie.py")
    with pytest.raises(RecipeError, match="directory"):
        load_recipe(tmp_path)


def test_loading_imports_no_torch():
    code = (
        "import sys, xtune; light = set(sys.modules); xtune.load_recipe('smollm2_lora')\n"
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules], 'pydantic' in light)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"
