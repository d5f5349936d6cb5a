"""RoPE scaling from the recipe: computed as transformers does, written with the result, refused where it cannot be."""

from __future__ import annotations

import json

import pytest
import torch

from tests.conftest import QUICKSTART
from tests.families.conftest import PARITY, options_of
from xtune.convert.adapter import convert_adapter
from xtune.convert.export import export
from xtune.convert.merge import merge
from xtune.errors import RecipeError, UsageError
from xtune.families import read_layout, read_native_config
from xtune.families.family import Options
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Recipe, RopeScaling
from xtune.run.target import find_target
from xtune.training.train import prepare, resume, train

# As transformers' documentation has them, for a model pretrained on 512 tokens; and the length after.
EXPECTED = {
    "linear": ({"factor": 4.0}, 2048),
    "dynamic": ({"factor": 4.0}, 512),
    "yarn": ({"factor": 4.0, "original_max_position_embeddings": 512}, 2048),
    "llama3": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": 512,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
        2048,
    ),
}


def scaled(kind, factor=4, **options) -> Options:
    return Options(
        rope_scaling=RopeScaling(type=kind, factor=factor, **options.pop("scaling", {})), **options
    )


def logits(model, length=600) -> torch.Tensor:
    torch.manual_seed(0)
    ids = torch.randint(100, model.config.vocab_size, (1, length))
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def stock(directory, **settings):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **settings)


@pytest.mark.parametrize("kind", EXPECTED)
def test_logits_are_those_of_transformers(tiny_model, kind):
    parameters, longest = EXPECTED[kind]
    rope = {"rope_type": kind, "rope_theta": 10000.0, **parameters}
    model = load_model(tiny_model, dtype="float32", options=scaled(kind))
    assert model.config.rope_parameters == rope
    assert model.config.max_position_embeddings == longest
    expected = logits(stock(tiny_model, rope_parameters=rope, max_position_embeddings=longest))
    assert torch.equal(logits(model), expected)
    assert (expected - logits(stock(tiny_model))).abs().max() > 1e-4


def test_a_scaled_base_is_scaled_from_the_length_of_its_pretraining(tiny_model, tmp_path):
    config = json.loads((tiny_model / "config.json").read_text())
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config["rope_parameters"] = {**llama3, "original_max_position_embeddings": 64, "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    longer = read_native_config(tmp_path, scaled("llama3", 16))
    assert longer.rope_parameters == {**config["rope_parameters"], "factor": 16.0}
    assert longer.max_position_embeddings == 1024
    assert (
        read_native_config(tmp_path, scaled("yarn", 2)).max_position_embeddings == 512
    )  # never less than before
    config["rope_parameters"] = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="does not tell the length before"):
        read_native_config(tmp_path, scaled("yarn"))
    stated = scaled("linear", scaling={"original_max_position_embeddings": 64})
    assert read_native_config(tmp_path, stated).max_position_embeddings == 512


def recipe(base, method, folder, template="auto", **options) -> Recipe:
    chosen = Options(**options).chosen()
    (folder / "recipe.py").write_text(
        f"model = dict(path={str(base)!r}, template={template!r}, **{chosen!r})\n"
        f"method = dict(kind={method!r})\n"
        f"data = dict(sources=[dict(path={str(QUICKSTART / 'identity.jsonl')!r}, limit=8)])\n"
        "train = dict(steps=2, batch_size=4, lr=1e-2, checkpoint_every=1)\n"
    )
    return load_recipe(folder / "recipe.py")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_trained_with_it_is_saved_with_it(tiny_model, tmp_path, method):
    """The run, resumed, and its merged model: the same scaling once, also for who has no xtune."""
    scaling = scaled("yarn").rope_scaling
    asked = recipe(tiny_model, method, tmp_path, "smollm2", rope_scaling=scaling)
    run = train(asked, run_dir=tmp_path / "run")
    resume(run.path)
    target = find_target(str(run.path))
    if method == "lora":
        assert target.options.rope_scaling == scaling
        merged = merge(run.path, tmp_path / "merged")
        assert merged.check.largest_difference < 1e-4
        target = find_target(str(merged.path))
    model = load_model(target.base, dtype="float32", options=target.options)
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, **EXPECTED["yarn"][0]}
    assert model.config.rope_parameters == rope
    assert model.config.max_position_embeddings == 2048
    assert torch.equal(logits(stock(target.base)), logits(model))


def test_in_a_layout_whose_code_reads_it(published, tmp_path):
    """InternLM2's: two entries, with the names that it knows."""
    base = published("internlm2")
    asked = recipe(base, "full", tmp_path, rope_scaling=scaled("linear").rope_scaling)
    run = train(asked, run_dir=tmp_path / "run")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (base, run.path / "model")
    )
    assert after["rope_scaling"] == {"type": "linear", "factor": 4.0}
    assert after["max_position_embeddings"] == 4 * before["max_position_embeddings"]
    target = find_target(str(run.path))
    model = load_model(target.base, dtype="float32", options=target.options)
    theta = float(before["rope_theta"])
    assert model.config.rope_parameters == {"rope_type": "linear", "factor": 4.0, "rope_theta": theta}
    assert model.config.max_position_embeddings == after["max_position_embeddings"]


def test_in_a_layout_whose_code_does_not(published, tmp_path):
    """ChatGLM's: full training and merging are refused at once; transformers' layout takes it."""
    base, options = published("chatglm3"), scaled("linear")
    with pytest.raises(UsageError, match=r"code of ChatGLM2 .* does not read it"):
        prepare(recipe(base, "full", tmp_path, rope_scaling=options.rope_scaling))
    run = train(recipe(base, "lora", tmp_path, rope_scaling=options.rope_scaling), run_dir=tmp_path / "run")
    with pytest.raises(UsageError, match="does not read it"):
        merge(run.path, tmp_path / "merged")
    with pytest.raises(UsageError, match="of which nothing beside it tells"):
        convert_adapter(run.path, tmp_path / "adapter", layout="original")
    export(run.path, tmp_path / "native", "native")
    assert stock(tmp_path / "native").config.rope_parameters == {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    }
    with pytest.raises(UsageError, match="does not read it"):  # and back
        export(tmp_path / "native", tmp_path / "original", "original", base=base)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("baichuan_13b", "ALiBi"),
        ("chatglm_6b", "positions in two dimensions"),
        ("internlm_dynamic", "stretches its rotary embeddings itself"),
        ("qwen_v1", "it stretches rotary embeddings"),
    ],
)
def test_models_with_positions_of_their_own(name, reason):
    options = Options(
        **{**vars(options_of(name)), **vars(scaled("linear"))} | {"rope": options_of(name).rope}
    )
    with pytest.raises(UsageError, match=reason):
        read_layout(PARITY / name / "checkpoint", options)


def test_models_without_or_with_several_rotary_embeddings(tmp_path):
    for config, reason in (
        ({"model_type": "gpt2"}, "no rotary embeddings"),
        ({"model_type": "gemma3_text", "num_hidden_layers": 6}, "of several kinds"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match=reason):
            read_native_config(tmp_path, scaled("yarn"))


def test_two_scalings_in_a_recipe(tiny_model, tmp_path):
    with pytest.raises(RecipeError, match="scaling of the published model; give one of the two"):
        recipe(tiny_model, "lora", tmp_path, rope="dynamic", rope_scaling=scaled("yarn").rope_scaling)
