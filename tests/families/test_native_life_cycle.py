"""The families that transformers has itself, through training, resuming and merging, and into stock transformers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.families.test_life_cycle import CONVERSATIONS, stock_model
from xtune.convert.merge import merge
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.training.train import resume, train

SMALL = {
    "vocab_size": 49152,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
    "rope_theta": 500000.0,
}
ARCHITECTURES = {
    "llama3_1": ("llama", {"rope_parameters": LLAMA3}),
    "llama3_2": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "glm": ("glm", {"head_dim": 16}),
    "internlm3": ("internlm3", {"head_dim": 16, "rope_scaling": {"type": "dynamic", "factor": 6.0}}),
}


# Of those that are alike one each here.
ALIKE = {"llama3_2", "qwen3"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in ARCHITECTURES]
)
def test_life_cycle(name, tokenizer, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model_type, different = ARCHITECTURES[name]
    settings = {key: value for key, value in (SMALL | different).items() if key != "rope_scaling"}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings)).save_pretrained(
        tmp_path / "base"
    )
    tokenizer.save_pretrained(tmp_path / "base")
    if model_type == "internlm3":  # as its publisher writes it
        file = tmp_path / "base" / "config.json"
        published = {**SMALL, **different, "model_type": "internlm3", "rope_theta": 50000000, "auto_map": {}}
        file.write_text(json.dumps({**published, "rms_norm_eps": 1e-5, "qkv_bias": False, "bias": False}))
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, CONVERSATIONS)))
    (tmp_path / "recipe.py").write_text(
        """
model = dict(path="base", template="chatml")
method = dict(kind="lora", rank=4, alpha=8)
data = dict(sources=[dict(path="data.jsonl")], max_length=256)
train = dict(steps=2, batch_size=4, lr=1e-2, checkpoint_every=1)
""".replace('"base"', repr(str(tmp_path / "base")))
    )
    run = train(load_recipe(tmp_path / "recipe.py"), run_dir=tmp_path / "run")
    first = load_file(run.path / "adapter" / "adapter_model.safetensors")
    shutil.rmtree(run.path / "checkpoints" / "checkpoint-2")
    shutil.rmtree(run.path / "adapter")
    resume(run.path)
    again = load_file(run.path / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)

    merged = merge(run.path, tmp_path / "merged")
    assert merged.check.largest_difference < 1e-4
    assert merged.check.adapter_effect > 0
    ids = torch.arange(200, 212)[None]
    with torch.no_grad():
        ours = load_model(merged.path, dtype="float32")(input_ids=ids).logits
        theirs = ours if model_type == "internlm3" else stock_model(merged.path)(input_ids=ids).logits
    assert (ours - theirs).abs().max() < 1e-5
