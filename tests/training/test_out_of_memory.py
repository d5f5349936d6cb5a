"""Where memory runs out: the run stops and says what helps, or goes on in smaller forward passes, training the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests.training.test_sft import largest_difference, recipe, weights
from xtune.errors import RecipeError, ResourceError
from xtune.recipe.load import load_recipe
from xtune.run.directory import Run
from xtune.training.train import prepare, resume, train
from xtune.training.trainer import ObjectiveTrainer

UNDER_A_LIMIT = """
import resource
import sys

import torch

torch.set_num_threads(1)
from xtune.errors import ResourceError
from xtune.recipe.load import load_recipe
from xtune.training.metrics import Metrics
from xtune.training.train import train

def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))

begin = Metrics.on_train_begin
before = []

def then_limit(*args, **kwargs):
    begin(*args, **kwargs)
    before.append(status("VmSize"))
    if (more := int(sys.argv[2])):
        resource.setrlimit(resource.RLIMIT_AS, (before[0] + more,) * 2)

Metrics.on_train_begin = then_limit
try:
    train(load_recipe("recipe.py", {"train.on_oom": sys.argv[1]}), run_dir=sys.argv[3])
    print(status("VmPeak") - before[0])
except ResourceError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="limits the memory of a process"
)
def test_under_a_real_limit(tiny_model, tmp_path):
    """Of two thirds of what steps take in passes of eight samples."""
    with open(tmp_path / "rows.jsonl", "w") as file:
        for number in range(40):
            answer = " ".join(map(str, range(number, 2 * number + 60)))
            turns = [("user", f"Count from {number}."), ("assistant", answer)]
            file.write(json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]}) + "\n")
    (tmp_path / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
        "method = dict(kind='lora')\ndata = dict(sources=[dict(path='rows.jsonl')], max_length=512)\n"
        "train = dict(steps=3, batch_size=8, micro_batch_size=8, lr=1e-3, fused=False)\n"
    )

    def run(name: str, on_oom: str, limit: int = 0) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", UNDER_A_LIMIT, on_oom, str(limit), name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    limit = int(run("whole", "stop").stdout) * 2 // 3
    told = run("stopped", "stop", limit).stdout
    assert told.startswith("Out of memory in step ")
    assert len(re.findall(r"\(\d+\.\d [GM]iB less\)", told)) > 1
    assert "train.micro_batch_size = 4" in told
    adapted = run("adapted", "adapt", limit)
    assert "memory   ran out in step " in adapted.stderr
    whole, small = (
        [figure for line in Run(tmp_path / name).metrics() for figure in (line["loss"], line["grad_norm"])]
        for name in ("whole", "adapted")
    )
    assert small == pytest.approx(whole, abs=1e-5)


class _TooLarge(torch.autograd.Function):
    """Itself; the way back takes more memory than there is."""

    @staticmethod
    def forward(_, loss):
        return loss.clone()

    @staticmethod
    def backward(*_):
        raise torch.OutOfMemoryError("of this test")


@pytest.fixture
def room_for(monkeypatch):
    """room_for(4, "backward") lets passes of more samples run out of memory, from the second pass on."""

    def limit(samples: int, where: str) -> None:
        passes = 0

        def compute_loss(self, model, inputs, **kwargs):
            nonlocal passes
            passes += 1
            large = len(inputs["samples"]) > samples and passes > 1
            if large and where == "forward":
                raise torch.OutOfMemoryError("of this test")
            loss = plain(self, model, inputs, **kwargs)
            return _TooLarge.apply(loss) if large and where == "backward" else loss

        monkeypatch.setattr(ObjectiveTrainer, "compute_loss", compute_loss)

    plain = ObjectiveTrainer.compute_loss
    return limit


@pytest.mark.parametrize(
    ("packing", "where", "samples"),
    [
        (True, "forward", 1),
        pytest.param(True, "backward", 3, marks=pytest.mark.slow),
        pytest.param(False, "backward", 1, marks=pytest.mark.slow),
    ],
)
def test_smaller_passes_train_the_same(tiny_model, tmp_path, room_for, packing, where, samples):
    """Also where the step's first pass has left gradients, and of passes that are not split in two."""
    options = {
        "batch_size": 12,
        "micro_batch_size": 6,
        "lr": 1e-4,
        "checkpoint_every": 1,
        "keep_checkpoints": 9,
    }
    whole = train(recipe(tiny_model, packing=packing, **options), run_dir=tmp_path / "whole")
    room_for(samples, where)
    run = train(recipe(tiny_model, packing=packing, on_oom="adapt", **options), run_dir=tmp_path / "run")
    assert [line["loss"] for line in run.metrics()] == pytest.approx(
        [line["loss"] for line in whole.metrics()], rel=1e-6
    )
    assert largest_difference(weights(run), weights(whole)) < 1e-5
    assert [line.get("micro_batch_size") for line in run.metrics()] == [samples, None, None, None]
    assert load_recipe(run.recipe_file).train.micro_batch_size == samples
    kept, lines = weights(run), [line["loss"] for line in run.metrics()]
    shutil.rmtree(run.checkpoints / "checkpoint-4")
    shutil.rmtree(run.checkpoints / "checkpoint-3")
    shutil.rmtree(run.result)
    assert largest_difference(weights(resume(run.path)), kept) == 0  # in passes of the same size
    assert [line["loss"] for line in run.metrics()] == pytest.approx(
        lines, abs=1e-5
    )  # added up in another order


def test_pairs_and_answers_too(tiny_model, tmp_path, room_for):
    """KTO measures in the first pass of a step what all of its passes need."""
    with open(tmp_path / "rows.jsonl", "w") as file:
        for number in range(24):
            answer = {"role": "assistant", "content": f"{number} is a number." * (1 + number % 3)}
            question = {"role": "user", "content": f"What is {number}?"}
            file.write(json.dumps({"messages": [question, answer], "label": number % 2 == 0}) + "\n")
    options = recipe(tiny_model, objective="kto", micro_batch_size=4).model_dump()
    options["data"]["sources"] = [{"path": str(tmp_path / "rows.jsonl")}]
    runs = []
    for name in ("whole", "adapt"):
        options["train"]["on_oom"] = "adapt" if name == "adapt" else "stop"
        runs.append(train(type(recipe(tiny_model)).model_validate(options), run_dir=tmp_path / name))
        room_for(2, "backward")
    whole, small = (run.metrics() for run in runs)
    for name in ("loss", "kl", "rewards/good"):
        assert [line[name] for line in small] == pytest.approx([line[name] for line in whole], abs=1e-5)


def test_it_ends_where_passes_cannot_be_smaller(tiny_model, tmp_path, room_for):
    room_for(0, "forward")
    with pytest.raises(ResourceError, match="Out of memory in step 1") as error:
        train(recipe(tiny_model, on_oom="adapt", micro_batch_size=2), run_dir=tmp_path / "run")
    assert "data.max_length" in error.value.fix
    assert "micro_batch_size" not in error.value.fix


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch_tokens": 512, "batch_size": None}, "cannot be halved"),
        ({"objective": {"kind": "grpo", "rewards": ["answer"]}}, "generation_batch"),
        ({"deepspeed": "zero2"}, "many processes"),
    ],
)
def test_what_cannot_adapt_is_refused(tiny_model, options, why):
    with pytest.raises(ValueError, match=why):
        recipe(tiny_model, on_oom="adapt", **options)


def test_several_processes_do_not_adapt(tiny_model):
    with pytest.raises(RecipeError, match="one process"):
        prepare(recipe(tiny_model, on_oom="adapt"), processes=2)
