"""A run that gets a signal saves, says how to go on, and ends as one that got none when it is resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.reliability.conftest import KINDS, Runs, differences, resume
from tests.reliability.life import NEVER, Life
from xtune.run.directory import Run
from xtune.training.checkpoints import newest_checkpoint


def begun(runs: Runs, kind: str, name: str, steps: int = 1, **options) -> tuple[Life, Run]:
    """A run that has done so many steps."""
    run = Run(runs.folder / name)
    life = Life(runs.start(kind, name), runs.folder, [NEVER] * KINDS[kind][0], **options)
    life.wait_for(lambda: len(run.metrics()) >= steps)
    return life, run


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("lora", signal.SIGINT),
        pytest.param("full-unpacked", signal.SIGTERM, marks=pytest.mark.stress),
        pytest.param("lora", signal.SIGHUP, marks=pytest.mark.stress),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(runs, kind, number):
    name = f"signalled-{kind}-{number}"
    life, run = begun(runs, kind, name)
    life.signal(number)
    life.signal(number)  # as a launcher passes on what the terminal has sent already
    assert life.end().codes == [128 + number], life.text
    done = len(run.metrics())
    assert newest_checkpoint(run.checkpoints).name == f"checkpoint-{done}"
    assert f"Stopped by {number.name}. Continue with: xtune train --resume {name}" in life.text
    assert life.text.count("Stopped by") == 1
    resume(runs, name)
    assert differences(runs.never_killed(kind).run, run) == []


def test_a_long_step_is_finished_first_and_a_second_signal_leaves_at_once(runs):
    slow = {"JUDGE_SECONDS": "0.15"}  # 8 answers a step, and some held out
    life, run = begun(runs, "grpo", "patient", **slow)
    time.sleep(0.3)
    life.signal(signal.SIGTERM)
    done = len(run.metrics())
    assert life.end().codes == [143], life.text
    assert len(run.metrics()) == done + 1
    assert "this step is finished and saved first" in life.text
    assert newest_checkpoint(run.checkpoints).name == f"checkpoint-{done + 1}"
    life = Life(["train", "--resume", "patient"], runs.folder, JUDGE_SECONDS="0.35")
    life.wait_for(lambda: "after step 2" in life.text)  # held-out samples, which the signal had kept from it
    time.sleep(0.5)
    for pause in (1.2, 0):
        sent = time.monotonic()
        life.signal(signal.SIGTERM)
        time.sleep(pause)
    assert life.end().codes == [143], life.text
    assert time.monotonic() - sent < 3
    resume(runs, "patient")
    assert differences(runs.never_killed("grpo").run, run) == []


@pytest.mark.stress
def test_while_held_out_samples_are_measured_a_signal_ends_it_at_once(runs):
    life, run = begun(runs, "grpo", "measured", steps=2, JUDGE_SECONDS="0.5")
    life.wait_for(lambda: newest_checkpoint(run.checkpoints))
    sent = time.monotonic()
    life.signal(signal.SIGTERM)
    assert life.end().codes == [143], life.text
    assert time.monotonic() - sent < 3
    resume(runs, "measured")
    assert differences(runs.never_killed("grpo").run, run) == []


@pytest.mark.parametrize(("held_out", "signals"), [(0, 2), pytest.param(4, 1, marks=pytest.mark.stress)])
def test_signals_end_a_run_that_hangs_in_c(runs, held_out, signals):
    """A second one where it hangs in a step; one where it hangs before the first step, with samples held out."""
    name = f"hanging-{held_out}"
    more = ["--set", f"data.held_out={held_out}"]
    life = Life([*runs.start("grpo", name), *more], runs.folder, JUDGE_HANGS="1")
    life.wait_for(lambda: "hangs" in life.text)
    life.signal(signal.SIGTERM)
    if signals == 2:
        time.sleep(1.2)
        assert life.codes == [None]
        life.signal(signal.SIGTERM)
    sent = time.monotonic()
    assert life.end().codes == [143], life.text
    assert time.monotonic() - sent < (1 if signals == 2 else 10)


@pytest.mark.parametrize(
    "doing", ["loads", *(pytest.param(name, marks=pytest.mark.stress) for name in ("encodes", "probes"))]
)
def test_before_the_first_step_a_signal_ends_it_at_once(runs, tmp_path, doing):
    life = Life(runs.start("lora", doing), runs.folder, XTUNE_HOME=str(tmp_path))
    signs = {
        "encodes": (tmp_path, "datasets/.*"),
        "loads": (tmp_path, "datasets/*/about.json"),
        "probes": (runs.folder, f"{doing}/recipe.py"),
    }
    folder, sign = signs[doing]
    life.wait_for(lambda: list(folder.glob(sign)))
    sent = time.monotonic()
    life.signal(signal.SIGTERM)
    assert life.end().codes == [143], life.text
    assert time.monotonic() - sent < 5
    told = life.text
    again = resume(runs, doing)
    if again.codes == [2]:
        assert f"start it again: xtune train RECIPE --run-dir {doing}" in again.text
    else:
        assert f"Continue with: xtune train --resume {doing}" in told
        assert differences(runs.never_killed("lora").run, Run(runs.folder / doing)) == []


@pytest.mark.stress
def test_while_the_result_is_written_a_signal_ends_it_at_once(runs):
    life, run = begun(runs, "full-unpacked", "writing", steps=6)
    life.wait_for(lambda: list(run.path.glob(".model-*")))
    life.signal(signal.SIGTERM)
    assert life.end().codes == [143], life.text
    assert "Continue with: xtune train --resume writing" in life.text
    assert not list(run.path.glob(".model-*"))
    resume(runs, "writing")
    assert differences(runs.never_killed("full-unpacked").run, run) == []


@pytest.mark.parametrize("ranks", [[1], pytest.param([0, 1], marks=pytest.mark.stress)])
def test_several_processes_agree_on_where_to_stop(runs, ranks):
    name = f"agreed-{len(ranks)}"
    life, run = begun(runs, "lora-two", name)
    life.signal(signal.SIGTERM, ranks)
    assert life.end().codes == [143, 143], life.text
    assert newest_checkpoint(run.checkpoints).name == f"checkpoint-{len(run.metrics())}"
    assert life.text.count(f"Continue with: xtune train --resume {name}") == 1
    resume(runs, name, processes=2)
    assert differences(runs.never_killed("lora-two").run, run) == []


def wait_for_a_step(run: Run, launcher: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(run.metrics()) < 1:
        assert time.monotonic() < deadline
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.05)


@pytest.mark.stress
def test_torchrun_passes_a_signal_on(runs):
    run = Run(runs.folder / "torchrun")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xtune"]
    command = [sys.executable, *torchrun, *runs.start("lora", "torchrun"), "--set", "train.steps=2000"]
    launcher = subprocess.Popen(command, cwd=runs.folder, stderr=subprocess.PIPE, text=True)
    wait_for_a_step(run, launcher)
    launcher.send_signal(signal.SIGTERM)
    _, told = launcher.communicate(timeout=60)
    step = len(run.metrics())
    assert f"Step {step} is saved in torchrun/checkpoints/checkpoint-{step}." in told
    assert told.count("Continue with: xtune train --resume torchrun") == 1
    assert newest_checkpoint(run.checkpoints).name == f"checkpoint-{step}"


@pytest.mark.parametrize("only", [None, pytest.param("1", marks=pytest.mark.stress)])
def test_the_launcher_passes_a_signal_on(runs, only):
    """Or one of its processes gets it."""
    name = f"launched-{only}"
    run = Run(runs.folder / name)
    command = [
        sys.executable,
        "-m",
        "xtune",
        *runs.start("lora", name),
        "--nproc",
        "2",
        "--set",
        "train.steps=2000",
    ]
    launcher = subprocess.Popen(command, cwd=runs.folder, stderr=subprocess.PIPE, text=True)
    wait_for_a_step(run, launcher)
    ranks = {process.environ()["RANK"]: process for process in psutil.Process(launcher.pid).children()}
    os.kill(ranks[only].pid if only else launcher.pid, signal.SIGTERM)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 143, told
    step = len(run.metrics())
    assert f"Step {step} is saved in {name}/checkpoints/checkpoint-{step}." in told
    assert told.count(f"Continue with: xtune train --resume {name} --nproc 2") == 1
    assert newest_checkpoint(run.checkpoints).name == f"checkpoint-{step}"
    assert not any(process.is_running() for process in ranks.values())
