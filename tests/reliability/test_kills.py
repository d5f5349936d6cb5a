"""A run that is killed, at any moment and however often, ends as one that never was: to the bit.

Killed are they by SIGKILL: at a moment, or at the n-th change of a file, of a part of the run; or by SIGXFSZ, within a
write. The seed is told where a test fails; XTUNE_KILL_SEED=… repeats it (moments only roughly).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time

import pytest

from tests.reliability.conftest import KINDS, Runs, Whole, differences
from tests.reliability.life import NEVER, Kill, Life
from xtune.run.directory import Run
from xtune.training.checkpoints import fault_of

PARTS = {
    "anywhere": "",
    "start": r"recipe\.py|environment|data_files|data_report|probe",
    "checkpoint": "checkpoints",
    "lines": r"\.jsonl",
    "result": r"/\.(adapter|model)-|loss\.png",
}
"""Of a run: what files are changed there."""


def kill(how: str, whole: Whole, chance: random.Random, often: int) -> Kill:
    """`time`, a part, or `cut` and a part: within a write there.

    often   how often the run is killed: the later, the less is left of it
    """
    if how == "time":
        return Kill(seconds=chance.uniform(0.1, 0.9) * whole.seconds)
    cut, _, part = how.rpartition(" ")
    path = PARTS[part]
    last = sum(bool(re.search(path, changed)) for changed in whole.changes)
    event = chance.randint(1, max(1, 2 * last // often))
    if not cut:
        return Kill(event=event, path=path)
    folder = whole.run.result if part == "result" else max(whole.run.checkpoints.iterdir())
    largest = max(file.stat().st_size for file in folder.iterdir())
    return Kill(event=event, path=path, size=chance.randrange(largest))


def check(runs: Runs, kind: str, hows: list[str], **environment) -> None:
    """Kill a run in each of these ways, one after another, and go on with it; where it is done before that, with
    another. Each has to end as the one that never was killed."""
    seed = int(os.environ.get("XTUNE_KILL_SEED", random.randrange(10**6)))
    chance, whole, processes = random.Random(seed), runs.never_killed(kind), KINDS[kind][0]
    hows = chance.sample(hows, len(hows))
    killed = lives = 0
    while killed < len(hows):
        name = f"{kind}-{seed}-{killed}"
        run, life = Run(runs.folder / name), None
        while life is None or life.was_killed:
            one = kill(hows[killed], whole, chance, len(hows)) if killed < len(hows) else NEVER
            each = [NEVER] * processes
            each[chance.randrange(processes)] = one
            if one.seconds and chance.random() < 0.5:
                each = [one] * processes  # as where a machine goes down
            begin = ["train", "--resume", name] if run.path.exists() else runs.start(kind, name)
            life = Life(begin, runs.folder, each, **environment).end()
            lives, killed = lives + 1, killed + life.was_killed
            about = f"XTUNE_KILL_SEED={seed}, life {lives}, {one}:\n{life.text}"
            assert life.was_killed or not any(life.codes), about
            for checkpoint in run.checkpoints.glob("checkpoint-*"):
                assert fault_of(checkpoint) is None, about
            if run.result:
                names = sorted(file.name for file in whole.run.result.iterdir())
                assert sorted(file.name for file in run.result.iterdir()) == names, about
        assert differences(whole.run, run) == [], about
        shutil.rmtree(run.path)
    print(f"{kind}: {killed} kills, {lives} lives")


@pytest.mark.parametrize(
    ("kind", "hows"),
    [
        ("lora", ["time", "cut checkpoint", "checkpoint", "result", "cut result", "lines"]),
        ("full-unpacked", ["checkpoint"]),
        ("lora-two", ["checkpoint", "time"]),
    ],
)
def test_a_killed_run_ends_as_one_that_never_was(runs, kind, hows):
    check(runs, kind, hows)


@pytest.mark.stress
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_never_was(runs, kind):
    check(runs, kind, [*PARTS, "cut checkpoint", "cut result", "time", "time", "time"])


@pytest.mark.parametrize(
    ("kind", "hows"),
    [("lora", [2]), pytest.param("large", [1, 3, 5, 0.3, 0.6, 1.0], marks=pytest.mark.stress)],
)
def test_a_run_that_is_killed_while_it_encodes_is_started_again(runs, tmp_path, kind, hows):
    """At the n-th change of a file, or after so many seconds of encoding. Large data is encoded by other processes."""
    home = {"XTUNE_HOME": str(tmp_path)}
    name = f"encoding-{kind}"
    for how in hows:
        life = Life(runs.start(kind, name), runs.folder, [_encoding(how)], **home)
        if isinstance(how, float):
            life.wait_for(lambda: list(tmp_path.glob("datasets/.*-*")))
            time.sleep(how)
            life.signal(signal.SIGKILL)
        assert life.end().was_killed, life.text
        told = Life(["train", "--resume", name], runs.folder, **home).end()
        assert told.codes == [2]
        assert f"start it again: xtune train RECIPE --run-dir {name}" in told.text
    assert not any(Life(runs.start(kind, name), runs.folder, **home).end().codes)
    assert differences(runs.never_killed(kind).run, Run(runs.folder / name)) == []
    assert not [path for path in (tmp_path / "datasets").glob(".*") if path.is_dir()]


def _encoding(how: float) -> Kill:
    return NEVER if isinstance(how, float) else Kill(event=how, path="datasets/.*/")
