"""Invariants of training, on the real small model where it is quick and on a tiny one where it must be many times."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from tests.conftest import QUICKSTART
from xtune.data.batches.collate import NO_LABEL, collate
from xtune.data.dataset import load_dataset
from xtune.errors import UsageError
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Data, Recipe
from xtune.templates.template import find_template
from xtune.training.train import resume, train

IDENTITY = str(QUICKSTART / "identity.jsonl")


def recipe(path, method="lora", packing=True, probe=(), **options) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"path": str(path), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": method},
            "data": {"sources": [{"path": IDENTITY}], "packing": packing},
            "train": {"steps": 4, "batch_size": 8, "lr": 1e-3, **options},
            "probe": {"prompts": list(probe), "max_new_tokens": 4},
        }
    )


def weights(run) -> dict[str, torch.Tensor]:
    return {
        name: tensor for file in run.result.glob("*.safetensors") for name, tensor in load_file(file).items()
    }


def largest_difference(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name].float() - other[name].float()).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def model():
    return load_model("smollm2", dtype="float32")


def losses_per_sample(model, samples, packing) -> list[float]:
    """Mean loss of each sample, from one forward pass over all of them."""
    batch = collate(samples, packing=packing, pad_id=2)
    labels, columns = batch.pop("labels"), batch["logits_to_keep"]
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    targets = labels[:, 1:][:, columns]
    losses = cross_entropy(logits.transpose(1, 2), targets, ignore_index=NO_LABEL, reduction="none")
    if not packing:
        return [
            (row.sum() / (target != NO_LABEL).sum()).item()
            for row, target in zip(losses, targets, strict=True)
        ]
    owner = torch.from_numpy(np.repeat(np.arange(len(samples)), [len(sample) for sample in samples]))[
        columns + 1
    ]
    return [losses[0][owner == number].mean().item() for number in range(len(samples))]


def test_packed_and_padded_give_each_sample_the_same_loss(model, tokenizer):
    data = load_dataset(Data(sources=[{"path": IDENTITY}]), tokenizer, find_template("smollm2"))
    samples = [data[number] for number in range(0, 80, 8)]
    alone = [losses_per_sample(model, [sample], packing=False)[0] for sample in samples]
    padded = losses_per_sample(model, samples, packing=False)
    use_packed_attention(model)
    packed = losses_per_sample(model, samples, packing=True)
    model.set_attn_implementation("sdpa")
    assert packed == pytest.approx(alone, abs=1e-5)
    assert padded == pytest.approx(alone, abs=1e-5)


# Padded rows with plain attention: torch's fused CPU kernel rounds a row otherwise beside others than alone, which
# AdamW turns into up to 3e-5 in one or two of 4.9 million weights. That is the kernel's, not accumulation's.
@pytest.mark.parametrize(("packing", "attention"), [(True, "auto"), (False, "eager")])
@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_accumulation_does_not_change_training(tiny_model, tmp_path, packing, attention, real):
    # At a usual learning rate: AdamW moves a weight by lr whatever its gradient's size, so that rounding in a
    # gradient near 0 shows in proportion to lr.
    runs = []
    for micro in (8, 1):
        path = "smollm2" if real else tiny_model
        options = recipe(path, packing=packing, steps=2, micro_batch_size=micro, lr=1e-4)
        options = options.model_copy(
            update={"model": options.model.model_copy(update={"attention": attention})}
        )
        runs.append(train(options, run_dir=tmp_path / str(micro)))
    whole, parts = (run.metrics() for run in runs)
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], abs=1e-5)
    assert largest_difference(*map(weights, runs)) < 1e-5


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_each_method_learns_and_leaves_a_whole_run(tiny_model, tmp_path, method):
    from xtune.model.load import load_model
    from xtune.run.target import find_target

    run = train(recipe(tiny_model, method, steps=30, lr=1e-2, probe=["Hi"]), run_dir=tmp_path / "run")
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 31))
    # An adapter on random weights can do little; all weights together much.
    assert lines[-1]["loss"] < lines[0]["loss"] - (2 if method == "full" else 0.2)
    names = {
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "lr",
        "tokens",
        "loss_tokens",
        "tokens_per_second",
        "peak_memory_gib",
    }
    assert set(lines[0]) == names
    assert all(0 < line["loss_tokens"] < line["tokens"] for line in lines)
    assert run.read_json("data_report.json")["kept"] == 80
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    (probe,) = run.read_json("probe.json")
    assert probe["prompt"] == "Hi"
    assert probe["before"] != probe["after"]
    target = find_target(str(run.path))
    assert (target.adapter is None) == (method == "full")
    assert target.template.name == "smollm2"
    load_model(target.base)


@pytest.mark.parametrize(
    ("method", "sent"),  # tests/reliability kills many more
    [("full", signal.SIGKILL), ("lora", signal.SIGINT)],
)
@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(tiny_model, tmp_path, xtune, method, sent):
    (tmp_path / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2')\n"
        f"method = dict(kind={method!r})\n"
        f"data = dict(sources=[dict(path={IDENTITY!r})])\n"
        "train = dict(steps=25, batch_size=4, lr=1e-3, checkpoint_every=5)\n"
    )
    whole = train(load_recipe(tmp_path / "recipe.py"), run_dir=tmp_path / "whole")
    process = subprocess.Popen(
        [sys.executable, "-m", "xtune", "train", "recipe.py", "--run-dir", "killed"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*/manifest.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(sent)
    _, told = process.communicate(timeout=60)
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert "xtune train --resume killed" in told
        assert "Traceback" not in told
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # as a kill in the middle of a line leaves it
    assert not (tmp_path / "killed" / ("model" if method == "full" else "adapter")).exists()
    done = xtune("train", "--resume", "killed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    from xtune.run.directory import Run

    killed = Run(tmp_path / "killed")
    assert largest_difference(weights(whole), weights(killed)) == 0
    for name in ("step", "loss", "grad_norm", "lr", "tokens"):
        assert [line[name] for line in killed.metrics()] == [line[name] for line in whole.metrics()]


def test_a_damaged_checkpoint_is_passed_over(tiny_model, tmp_path):
    from xtune.training.checkpoints import newest_checkpoint
    from xtune.training.train import resume

    run = train(recipe(tiny_model, steps=4, checkpoint_every=2), run_dir=tmp_path / "run")
    newest = newest_checkpoint(run.checkpoints)
    assert newest.name == "checkpoint-4"
    file = newest / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert newest_checkpoint(run.checkpoints).name == "checkpoint-2"
    before = weights(run)
    assert largest_difference(weights(resume(run.path)), before) == 0
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]


def test_resuming_a_finished_run_changes_nothing(tiny_model, tmp_path):
    from xtune.training.train import resume

    run = train(recipe(tiny_model, steps=2, probe=["Hi"]), run_dir=tmp_path / "run")
    before, lines, probes = weights(run), run.metrics(), run.read_json("probe.json")
    assert largest_difference(weights(resume(run.path)), before) == 0
    assert run.metrics() == lines
    assert run.read_json("probe.json") == probes


def test_a_finished_run_goes_on_for_more_steps(tiny_model, tmp_path):
    from xtune.training.train import resume

    run = train(recipe(tiny_model, steps=2, schedule="constant", warmup=0.0), run_dir=tmp_path / "run")
    longer = resume(run.path, {"train.steps": 4})
    assert [line["step"] for line in longer.metrics()] == [1, 2, 3, 4]
    whole = train(recipe(tiny_model, steps=4, schedule="constant", warmup=0.0), run_dir=tmp_path / "whole")
    assert largest_difference(weights(longer), weights(whole)) == 0


@pytest.mark.parametrize("schedule", [pytest.param("cosine", marks=pytest.mark.slow), "wsd"])
def test_a_resumed_run_follows_what_its_recipe_says_by_then_and_keeps_it(tiny_model, tmp_path, schedule):
    options = {"schedule": schedule, "warmup": 0.0}
    changes = {"train.steps": 6, "train.lr": 5e-4, "train.weight_decay": 0.1}
    run = train(recipe(tiny_model, steps=2, checkpoint_every=1, **options), run_dir=tmp_path / "run")
    resume(run.path, changes)
    whole = train(recipe(tiny_model, steps=6, lr=5e-4, **options), run_dir=tmp_path / "whole")
    rates = [[line["lr"] for line in one.metrics()[2:]] for one in (run, whole)]
    assert rates[0] == rates[1]
    state = torch.load(run.checkpoints / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in state["param_groups"] if group["weight_decay"]} == {0.1}
    kept, lines = weights(run), run.metrics()
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    shutil.rmtree(run.result)
    assert (
        largest_difference(weights(resume(run.path)), kept) == 0
    )  # without the changes: they are its recipe's now
    assert [line["loss"] for line in run.metrics()] == [line["loss"] for line in lines]


def test_a_run_directory_is_never_overwritten(tiny_model, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="exists"):
        train(recipe(tiny_model), run_dir=tmp_path / "run")


def test_what_matters_in_trainer_is_set_by_us(tiny_model, tmp_path):
    """Read back from what a checkpoint stores, so that a changed default of transformers is noticed."""
    run = train(
        recipe(tiny_model, steps=2, checkpoint_every=1, lr=3e-4, warmup=0.0), run_dir=tmp_path / "run"
    )
    arguments = torch.load(run.checkpoints / "checkpoint-1" / "training_args.bin", weights_only=False)
    expected = {
        "learning_rate": 3e-4,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "label_smoothing_factor": 0.0,
        "group_by_length": False,
    }
    assert {name: getattr(arguments, name, False) for name in expected} == expected
    assert json.loads((run.checkpoints / "checkpoint-1" / "trainer_state.json").read_text())["max_steps"] == 2


def test_steps_by_tokens_with_samples_held_out(tiny_model, tmp_path):
    asked = recipe(tiny_model, batch_tokens=512, batch_size=None, steps=None, epochs=2)
    data = asked.data.model_copy(update={"max_length": 256, "held_out": 0.1})
    run = train(asked.model_copy(update={"data": data}), run_dir=tmp_path / "run")
    steps = run.metrics()
    assert all(step["tokens"] <= 512 for step in steps)
    assert np.mean([step["tokens"] for step in steps]) > 0.85 * 512
    assert steps[-1]["epoch"] == pytest.approx(2, abs=0.1)
    held_out = [json.loads(line) for line in (run.path / "held_out.jsonl").read_text().splitlines()]
    assert held_out[0]["step"] == 0
    assert held_out[-1]["step"] == steps[-1]["step"]
    assert held_out[-1]["loss"] < held_out[0]["loss"]
    report = run.read_json("data_report.json")
    assert report["kept"] == report["samples"] == 80
    before = (run.path / "held_out.jsonl").read_text()
    newest = max(run.checkpoints.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.rmtree(newest)  # as if the run had been killed before it
    resume(run.path)
    again = [json.loads(line) for line in (run.path / "held_out.jsonl").read_text().splitlines()]
    assert again == [pytest.approx(json.loads(line)) for line in before.splitlines()]
    assert sum(each["count"] for each in report["lengths"]["histogram"]) == 80
