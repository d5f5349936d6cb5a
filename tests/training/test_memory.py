"""The memory of a step before it is taken, and gradient checkpointing where that is too much."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_methods import recipe
from xtune.errors import RecipeError
from xtune.model.adapters import attach_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.fused import fuse
from xtune.model.load import load_model
from xtune.recipe.schema import Lora, Train
from xtune.training import memory
from xtune.training.train import train


def batch(lengths, packing) -> dict:
    """As collate gives it, with every token's output."""
    ids = [torch.randint(100, 9000, (length,)) for length in lengths]
    longest = max(lengths)
    if packing:
        made = {"input_ids": torch.cat(ids)[None], "sample_lengths": lengths}
        made["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
    else:
        made = {
            "input_ids": torch.stack([torch.cat([one, one.new_zeros(longest - len(one))]) for one in ids])
        }
        made["position_ids"] = torch.arange(longest).expand(len(ids), -1)
    columns = torch.arange(made["input_ids"].shape[1] - 1)
    return {**made, "labels": made["input_ids"], "logits_to_keep": columns}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", [None, {}, {"dora": True, "dropout": 0.1}])
@pytest.mark.parametrize("kernels", [[], ["loss", "lora", "mlp", "norm", "attention"]])
def test_what_is_kept_of_a_short_text_tells_of_a_long_pass(tiny_model, attention, method, kernels):
    model = load_model(tiny_model, dtype="float32", attention=attention)
    if attention == "sdpa":
        use_packed_attention(model)
    if method is not None:
        model = attach_adapter(model, Lora(kind="lora", rank=4, **method))
    fuse(model, kernels)
    packing = attention == "sdpa"
    short = batch([67], packing)
    for lengths in ([350], [120, 300, 41]):
        long = batch(lengths, packing)
        before = torch.get_rng_state()
        told = sum(memory.kept_for_backward(model, short, long, half=False)[:2])
        assert torch.equal(torch.get_rng_state(), before)  # what a run draws does not depend on the estimate
        counted = sum(memory.kept_for_backward(model, long, long, half=False)[:2])
        assert told == pytest.approx(counted, rel=0.03)


def test_on_where_memory_is_short(tiny_model, tmp_path, monkeypatch, capsys):
    """And the weights that come out are the same."""
    results = {}
    for name, free in (("plenty", 2**40), ("short", 2**20)):
        monkeypatch.setattr(memory, "free_memory", lambda *_, free=free: free)
        run = train(recipe(tiny_model, steps=2), run_dir=tmp_path / name)
        arguments = torch.load(run.checkpoints / "checkpoint-2" / "training_args.bin", weights_only=False)
        assert arguments.gradient_checkpointing == (name == "short")
        assert ("computed again in the backward pass" in capsys.readouterr().err) == (name == "short")
        results[name] = load_file(run.result / "adapter_model.safetensors")
    for name, weight in results["plenty"].items():
        torch.testing.assert_close(results["short"][name], weight, atol=1e-6, rtol=0)


def test_a_class_without_it(tiny_model, monkeypatch):
    model = load_model(tiny_model)
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(RecipeError, match="has no gradient checkpointing"):
        memory.use_checkpointing(Train(gradient_checkpointing=True), model, None, half=False)
    assert not memory.use_checkpointing(Train(gradient_checkpointing="auto"), model, None, half=False)


MEASURE = """
import sys
from xtune.recipe.load import load_recipe
from xtune.training import trainer
from xtune.training.memory import step_memory
from xtune.training.train import train

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

def estimate(options, model, batches, *, half):
    told = step_memory(options, model, batches, half=half).total
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    print(told, status("VmRSS"))
    return False

trainer.use_checkpointing = estimate
train(load_recipe("recipe.py"), run_dir=sys.argv[1])
print(status("VmHWM"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="measures this process in /proc"
)
@pytest.mark.parametrize(("method", "length"), [("full", 512), ("lora", 512), ("lora", 1024)])
def test_the_estimate_is_near_the_peak(tmp_path, method, length):
    """Of SmolLM2 on a CPU."""
    text = "The sea is wide, and the ship is small. " * 60
    with open(tmp_path / "data.jsonl", "w") as file:
        for number in range(40):
            turns = [
                ("user", f"Tell me of the sea, part {number}."),
                ("assistant", text[: 100 + 20 * number]),
            ]
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    (tmp_path / "recipe.py").write_text(
        f"model = dict(path='smollm2', dtype='float32')\nmethod = dict(kind={method!r})\n"
        f"data = dict(sources=[dict(path='data.jsonl')], max_length={length})\n"
        f"train = dict(steps=2, batch_tokens={length}, lr=1e-5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "run"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told, start, peak = map(int, done.stdout.split())
    assert told == pytest.approx(peak - start, rel=0.3)
