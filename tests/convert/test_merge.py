"""Merging: the directory on disk says what base and adapter say, in stock Transformers, for every kind of adapter."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from xtune.convert.merge import PROMPTS, merge
from xtune.convert.weights import dtype_on_disk
from xtune.data.encoding.encode import encode
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.model.adapters import load_adapter
from xtune.model.load import load_model
from xtune.run.target import find_target
from xtune.templates.template import find_template


@pytest.fixture(scope="module")
def tiny_adapter(make_adapter, tiny_model, tmp_path_factory):
    return make_adapter(tiny_model, tmp_path_factory.mktemp("tiny-adapter"), scale=0.2)


@pytest.fixture(scope="module")
def merged(tiny_adapter, tmp_path_factory):
    """The tiny model with an adapter, merged by the command: the directory, and what the command printed."""
    from xtune.cli.convert import convert

    out = tmp_path_factory.mktemp("merge") / "out"
    done = CliRunner().invoke(convert, ["merge", str(tiny_adapter), str(out)])
    assert (done.exit_code, done.stderr) == (0, "")
    return out, done.stdout


@pytest.fixture
def copy(tmp_path):
    """copy(directory, **changes) copies a model with a changed config.json."""

    def change(directory, **changes):
        other = tmp_path / "copy"
        shutil.copytree(directory, other)
        file = other / "config.json"
        config = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
        return other

    return change


def test_command_says_how_near_it_came(merged):
    out, stdout = merged
    assert f"{out} (float32, 0.01 GB)" in stdout
    assert "4 prompts, 32 tokens each, greedy: all the same" in stdout


def test_stock_transformers_answer_as_base_and_adapter_token_for_token(
    merged, tiny_model, tiny_adapter, tokenizer
):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    stock, info = AutoModelForCausalLM.from_pretrained(merged[0], output_loading_info=True)
    assert not any(info.values())
    assert str(stock.dtype) == "torch.float32"
    stock_tokenizer = AutoTokenizer.from_pretrained(merged[0])
    ours = load_adapter(load_model(tiny_model, dtype="float32"), tiny_adapter)
    for prompt in ("Name three colours.", "你会说中文吗？"):
        ids = stock_tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        same = encode(
            [Message("user", prompt)], tokenizer=tokenizer, template="smollm2", add_generation_prompt=True
        )
        assert ids["input_ids"][0].tolist() == same.input_ids.tolist()
        answers = [model.generate(**ids, max_new_tokens=16, do_sample=False) for model in (stock, ours)]
        assert answers[0].tolist() == answers[1].tolist()


def test_files_beside_the_weights(merged, tiny_model, tokenizer):
    out, _ = merged
    template = find_template("smollm2")
    assert (out / "chat_template.jinja").read_text() == template.source
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    assert (out / "tokenizer.json").read_bytes() == (tiny_model / "tokenizer.json").read_bytes()
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    target = find_target(str(out))
    assert (target.base, target.adapter, target.template) == (str(out), None, template)
    assert not list(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("targets", "tied"),
    [
        ("all-linear", True),
        (["lm_head"], False),
        (["embed_tokens"], False),
        (["embed_tokens", "lm_head"], False),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapters on tied layers
def test_tied_embeddings(tiny_model, make_adapter, tmp_path, targets, tied):
    """An adapter on one of two tied layers leaves the other as it was."""
    import torch
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=0.2, targets=targets)
    done = merge(adapter, tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weights = [layer.weight for layer in (stock.get_input_embeddings(), stock.get_output_embeddings())]
    assert (weights[0] is weights[1]) == tied == stock.config.tie_word_embeddings
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        expected = load_adapter(load_model(tiny_model), adapter)(input_ids=ids).logits
        plain = load_model(tiny_model)(input_ids=ids).logits
        torch.testing.assert_close(stock(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 100 * done.check.largest_difference
    assert done.check.adapter_effect > 100 * done.check.largest_difference


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_summed_in_float32_and_rounded_once_to_the_type_of_the_base(
    tiny_model, make_adapter, tmp_path, dtype
):
    import torch
    from transformers import AutoModelForCausalLM

    base, out = tmp_path / "base", tmp_path / "out"
    shutil.copytree(tiny_model, base)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, dtype)).save_pretrained(base)
    adapter = make_adapter(base, tmp_path / "adapter", scale=0.2)
    done = merge(adapter, out)
    assert done.dtype == dtype == json.loads((out / "config.json").read_text())["dtype"]
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{letter}.weight"].float() for letter in "AB")
    expected = before[f"{name}.weight"].float() + 2 * b @ a
    assert torch.equal(after[f"{name}.weight"], expected.to(getattr(torch, dtype)))
    assert all(tensor.dtype == getattr(torch, dtype) for tensor in after.values())


def test_qlora_merges_into_the_weights_before_quantisation(tiny_model, make_adapter, tmp_path):
    import torch

    adapter = make_adapter(tiny_model, tmp_path / "adapter", scale=0.2, bits=4)
    merge(adapter, tmp_path / "out")
    before, after = (load_file(place / "model.safetensors") for place in (tiny_model, tmp_path / "out"))
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (factors[f"base_model.model.{name}.lora_{letter}.weight"].float() for letter in "AB")
    torch.testing.assert_close(after[f"{name}.weight"], before[f"{name}.weight"] + 2 * b @ a)
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.parametrize(
    "method",
    [{"dora": True}, {"rslora": True}, {"init": "pissa", "dora": True, "rslora": True}, {"layers": [1]}],
    ids=str,
)
def test_every_way_of_training_an_adapter_merges(tiny_model, tmp_path, method):
    import torch

    from xtune.model.adapters import attach_adapter, save_adapter
    from xtune.recipe.schema import Lora

    model = attach_adapter(load_model(tiny_model), Lora(kind="lora", rank=8, alpha=16, **method))
    random = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=random)
    save_adapter(model, tmp_path / "adapter")
    done = merge(tmp_path / "adapter", tmp_path / "out")
    ids = torch.arange(100, 140)[None]
    with torch.inference_mode():
        expected, merged = (each(input_ids=ids).logits for each in (model, load_model(tmp_path / "out")))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=0)
    assert done.check.adapter_effect > 100 * done.check.largest_difference


def test_type_of_the_base(tiny_model, copy):
    assert dtype_on_disk(tiny_model) == "float32"
    wrong = copy(tiny_model, dtype="float16")  # as Baichuan-7B's config.json says another one
    assert dtype_on_disk(wrong) == "float32"


@pytest.fixture
def run(tiny_model, tmp_path):
    """A run directory with probes, without a result yet."""
    from xtune.recipe.schema import Recipe
    from xtune.run.directory import create_run

    data = tmp_path / "data.json"
    data.write_text('[{"instruction": "a", "output": "b"}]')
    recipe = Recipe.model_validate(
        {
            "model": {"path": str(tiny_model)},
            "method": {"kind": "lora"},
            "data": {"sources": [{"path": str(data)}]},
            "probe": {"prompts": ["What is it?", PROMPTS[0]], "system": "Be brief."},
        }
    )
    return create_run(recipe, tmp_path / "run").path


@pytest.mark.parametrize("inside", ["", "adapter"])
def test_run_is_checked_with_its_own_probes(run, tiny_adapter, tmp_path, inside):
    shutil.copytree(tiny_adapter, run / "adapter")
    done = merge(run / inside, tmp_path / "out")
    assert done.check.prompts == len(PROMPTS) + 1  # one of the probes is asked anyway
    assert done.check.same_answers == done.check.prompts


def test_run_without_a_result(run, tmp_path):
    with pytest.raises(UsageError, match="has not finished"):
        merge(run, tmp_path / "out")


def test_full_training_leaves_nothing_to_merge(run, tiny_model, tmp_path):
    shutil.copytree(tiny_model, run / "model")
    with pytest.raises(UsageError, match="nothing to merge") as raised:
        merge(run, tmp_path / "out")
    assert str(run / "model") in raised.value.fix


def test_another_base_is_refused_and_a_moved_one_is_named(tiny_model, tiny_adapter, copy, tmp_path):
    moved = copy(tiny_model)
    assert merge(tiny_adapter, tmp_path / "out", base=moved).check.adapter_effect > 0
    weights = load_file(moved / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="its weights differ"):
        merge(tiny_adapter, tmp_path / "other", base=moved)


def test_base_that_is_gone(tiny_model, tiny_adapter, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, adapter)
    note = json.loads((adapter / "xtune.json").read_text())
    (adapter / "xtune.json").write_text(json.dumps({**note, "base": str(tmp_path / "gone")}))
    with pytest.raises(UsageError, match=r"is not at .*gone") as raised:
        merge(adapter, tmp_path / "out")
    assert "--base" in raised.value.fix
    assert merge(adapter, tmp_path / "out", base=tiny_model).check.prompts == len(PROMPTS)


def test_adapter_made_elsewhere(tiny_adapter, tmp_path):
    """PEFT alone leaves no note: the base is where adapter_config.json says, the template is the base's."""
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, adapter)
    (adapter / "xtune.json").unlink()
    merge(adapter, tmp_path / "out")
    assert find_target(str(tmp_path / "out")).template.name == "smollm2"


def test_quantised_base_is_refused(tiny_model, tiny_adapter, copy, tmp_path):
    quantised = copy(tiny_model, quantization_config={"quant_method": "gptq"})
    with pytest.raises(UsageError, match="quantised on disk"):
        merge(tiny_adapter, tmp_path / "out", base=quantised)


def test_adapter_that_holds_nan(tiny_adapter, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(tiny_adapter, adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(UsageError, match="NaN"):
        merge(adapter, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_out_that_exists(tiny_adapter, tmp_path, kind):
    out = tmp_path / "out"
    {"file": out.touch, "directory": out.mkdir, "link": lambda: out.symlink_to("nowhere")}[kind]()
    with pytest.raises(UsageError, match="exists already"):
        merge(tiny_adapter, out)


def test_nothing_there(xtune, tmp_path):
    done = xtune("convert", "merge", tmp_path / "nowhere", tmp_path / "out")
    assert done.returncode == 2
    assert "neither a run, an adapter nor a model" in done.stderr
    assert not (tmp_path / "out").exists()
