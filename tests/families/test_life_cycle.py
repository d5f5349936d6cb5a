"""Every architecture from its publisher's layout through training, resuming, merging and export, and back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.convert.export import export
from xtune.convert.layout import original_tensors
from xtune.convert.merge import merge
from xtune.convert.weights import read_tensors
from xtune.errors import UsageError
from xtune.families import read_layout
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.run.target import find_target
from xtune.training.train import resume, train

CONVERSATIONS = [
    {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    for question, answer in (
        ("你好", "Hello!"),
        ("What is 2 + 2?", "It is 4."),
        ("第一行\n第二行", "third"),
        ("Who?", "InternLM2"),
    )
]


def two_steps(name, base, folder, method):
    """A finished run of two steps."""
    torch.set_num_threads(1)
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, CONVERSATIONS)))
    chosen = options_of(name).chosen()
    recipe = f"""
model = dict(path={str(base)!r}, **{chosen!r})
method = {method}
data = dict(sources=[dict(path="data.jsonl")], max_length=256)
train = dict(steps=2, batch_size=4, lr=1e-2, checkpoint_every=1)
"""
    (folder / "recipe.py").write_text(recipe)
    return train(load_recipe(folder / "recipe.py"), run_dir=folder / "run")


@pytest.fixture(scope="module", params=NAMES)
def run(request, published, tmp_path_factory):
    """A finished LoRA run on a checkpoint as published, and that checkpoint."""
    base, folder = published(request.param), tmp_path_factory.mktemp("run")
    return two_steps(request.param, base, folder, "dict(kind='lora', rank=4, alpha=8)"), base


def all_tensors(directory):
    return dict(read_tensors(directory, bool))


def logits(model):
    ids = torch.arange(200, 212)[None]
    if model.config.model_type == "xtune_chatglm_6b":  # no prompt, no positions
        ids[0, 6:8] = torch.tensor([model.config.gmask_token_id, model.config.bos_token_id])
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_a_resumed_run_ends_with_the_same_weights(run, tmp_path):
    finished, _ = run
    other = tmp_path / "run"
    shutil.copytree(finished.path, other)
    shutil.rmtree(other / "checkpoints" / "checkpoint-2")
    shutil.rmtree(other / "adapter")
    resume(other)
    ours, theirs = (
        load_file(path / "adapter" / "adapter_model.safetensors") for path in (finished.path, other)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all("lora_" in name for name in ours)  # no copy of the embeddings
    assert any(weight.abs().max() > 0 for name, weight in ours.items() if "lora_B" in name)


@pytest.mark.parametrize("name", ["baichuan2_7b", "chatglm3", "internlm2", "qwen_v1"])
def test_full_training_resumes_and_leaves_its_bases_layout(name, published, tmp_path):
    run = two_steps(name, published(name), tmp_path, "dict(kind='full')")
    first = all_tensors(run.path / "model")
    shutil.rmtree(run.path / "checkpoints" / "checkpoint-2")
    shutil.rmtree(run.path / "model")
    resume(run.path)
    again, before = all_tensors(run.path / "model"), all_tensors(published(name))
    assert first.keys() == again.keys() == before.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], before[key].float()) for key in first)
    target = find_target(str(run.path))
    assert torch.isfinite(logits(load_model(target.base, dtype="float32", options=target.options))).all()


def test_a_merged_model_has_its_bases_layout_and_files(run, tmp_path):
    finished, base = run
    merged = merge(finished.path, tmp_path / "merged")
    before, after = all_tensors(base), all_tensors(merged.path)
    assert {name: (t.shape, t.dtype) for name, t in before.items()} == {
        name: (t.shape, t.dtype) for name, t in after.items()
    }
    assert (merged.path / "config.json").read_text() == (base / "config.json").read_text()
    for file in (*base.glob("*.model"), *base.glob("*.tiktoken"), *base.glob("*.py")):
        assert (merged.path / file.name).read_bytes() == file.read_bytes()
    # bfloat16 and float16 on disk: rounding is all that differs
    assert merged.check.largest_difference < 0.15 * max(1, merged.check.adapter_effect)
    target = find_target(str(merged.path))  # remembers what config.json does not tell
    assert target.options == find_target(str(finished.path)).options
    model = load_model(target.base, dtype="float32", options=target.options)
    assert torch.isfinite(logits(model)).all()


@pytest.mark.parametrize("name", NAMES)
def test_untrained_weights_go_out_and_come_back_bit_for_bit(published, name, tmp_path):
    """To transformers' layout and back, where it has one; every tensor of the publisher's files, with its type."""
    base, options = shutil.copytree(published(name), tmp_path / "base"), options_of(name)
    (base / "xtune.json").write_text(json.dumps({"template": "chatml", "model_options": options.chosen()}))
    export(base, tmp_path / "original", "original")
    before = all_tensors(base)
    for file in ("tokenizer_config.json",):
        assert (tmp_path / "original" / file).read_bytes() == (base / file).read_bytes()
    after = all_tensors(tmp_path / "original")
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before
    )

    layout = read_layout(base, options)
    if options.position == "alibi" or name == "chatglm_6b":
        with pytest.raises(UsageError, match="No class of transformers"):
            export(base, tmp_path / "native", "native")
        return
    different = export(base, tmp_path / "native", "native")
    assert (different is None) == (layout.stock is True)
    stock = stock_model(tmp_path / "native")
    ours = load_model(base, dtype="float32", options=options)
    assert (logits(stock) - logits(ours)).abs().max() < (0.05 if options.norm_head else 1e-5)
    if not options.norm_head:  # whose rows are normalised once and for all
        back = dict(
            original_tensors(stock_model(tmp_path / "native", "auto").state_dict(), layout, ours.config)
        )
        assert all(torch.equal(before[key], back[key]) for key in back)


def stock_model(directory, dtype="float32"):
    """As somebody without xtune would load it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    assert not any(info.values())
    assert AutoTokenizer.from_pretrained(directory)("你好 hello").input_ids
    return model


def test_fixtures_are_all_there():
    assert len(NAMES) >= 14
    assert PARITY.is_dir()
