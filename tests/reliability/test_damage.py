"""Checkpoints that were damaged on the disk are named and passed over, and a resumed run starts where it stopped."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.reliability.conftest import Runs, differences, resume
from xtune.run.directory import Run
from xtune.training.batches import MicroBatches
from xtune.training.checkpoints import fault_of, newest_checkpoint
from xtune.training.train import resume as resume_here


def copied(runs: Runs, name: str) -> Run:
    """A run that was killed while it wrote its result, with checkpoint-4 and checkpoint-6."""
    run = Run(runs.folder / name)
    shutil.copytree(runs.never_killed("lora").run.path, run.path)
    shutil.rmtree(run.result)
    return run


def cut(file: Path, chance: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


DAMAGES = [cut, flip, remove]


def test_every_damage_is_found(runs):
    run, seed = copied(runs, "examined"), random.randrange(10**6)
    chance, checkpoint = random.Random(seed), run.checkpoints / "checkpoint-6"
    assert fault_of(checkpoint) is None
    files = sorted(checkpoint.iterdir())
    for number in range(120):
        file, damage = files[number % len(files)], chance.choice(DAMAGES)
        before = file.read_bytes()
        damage(file, chance)
        assert file.name in (fault_of(checkpoint) or ""), f"{seed}: {damage.__name__} of {file}"
        file.write_bytes(before)
    assert fault_of(checkpoint) is None


@pytest.mark.parametrize(
    "damage",
    [cut, pytest.param(flip, marks=pytest.mark.stress), pytest.param(remove, marks=pytest.mark.stress)],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(runs, damage):
    name = f"damaged-{damage.__name__}"
    run = copied(runs, name)
    file = run.checkpoints / "checkpoint-6" / "optimizer.pt"
    damage(file, random.Random())
    life = resume(runs, name)
    assert life.codes == [0], life.text
    assert "checkpoint-6 is damaged and passed over: optimizer.pt" in life.text
    assert "from checkpoint-4" in life.text
    assert differences(runs.never_killed("lora").run, run) == []


def test_without_a_whole_checkpoint_it_starts_anew(runs):
    run = copied(runs, "all-damaged")
    for checkpoint in run.checkpoints.iterdir():
        flip(checkpoint / "adapter_model.safetensors", random.Random())
    life = resume(runs, "all-damaged")
    assert life.codes == [0], life.text
    assert life.text.count("is damaged and passed over: adapter_model.safetensors") == 2
    assert "starts anew" in life.text
    assert differences(runs.never_killed("lora").run, run) == []


def test_what_was_being_written_is_no_checkpoint(runs):
    run = copied(runs, "unfinished")
    (run.checkpoints / ".writing").mkdir()
    (run.checkpoints / "checkpoint-6").rename(run.checkpoints / ".writing" / "checkpoint-6")
    assert newest_checkpoint(run.checkpoints).name == "checkpoint-4"
    resume(runs, "unfinished")
    assert differences(runs.never_killed("lora").run, run) == []


def test_a_resumed_run_does_not_go_through_the_steps_before(runs, monkeypatch):
    run = copied(runs, "cursor")
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    asked, get = [], MicroBatches.__getitem__

    def record(self, index):
        asked.append(index)
        return get(self, index)

    monkeypatch.setattr(MicroBatches, "__getitem__", record)
    monkeypatch.chdir(runs.folder)
    resume_here("cursor")
    assert asked == [8, 9, 10, 11]  # two forward passes of each step from the fifth on
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_two_processes_do_not_train_one_run(runs, monkeypatch):
    run = copied(runs, "held")
    from xtune.errors import UsageError
    from xtune.run import directory

    monkeypatch.setattr(directory, "PATIENCE", 0.2)
    with directory.alone_in(run), pytest.raises(UsageError, match="Another process trains this run"):
        resume_here(run.path)
