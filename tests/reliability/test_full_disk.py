"""A disk that is full: the run waits for room, and goes on as if nothing had been, or stops with what it has."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import pytest

from tests.reliability.conftest import KINDS, Runs, differences
from tests.reliability.life import NEVER, Life
from xtune.run.directory import Run
from xtune.training import full_disk
from xtune.training.checkpoints import newest_checkpoint
from xtune.training.json_lines import append

TWO_CHECKPOINTS = 1200  # kB: and not three
NO_RESULT = 2500
PATIENT = {"xtune.training.full_disk.PAUSE": 0.1, "xtune.training.full_disk.ATTEMPTS": 600}
IMPATIENT = {"xtune.training.full_disk.PAUSE": 0.1, "xtune.training.full_disk.ATTEMPTS": 3}


@pytest.fixture
def disk(tmp_path):
    """disk(kB) is a folder with so much room: that of a file system of its own, of another size when asked again."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(size: int):
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{again}size={size}k", "tmpfs", folder]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("to mount a file system needs root")
        return folder

    yield sized
    if os.path.ismount(folder):
        subprocess.run(["umount", "--lazy", folder], check=True)


def begin(runs: Runs, kind: str, folder, constants) -> tuple[Life, Run]:
    run = Run(folder / "run")
    return Life(runs.start(kind, str(run.path)), runs.folder, [NEVER] * KINDS[kind][0], constants), run


@pytest.mark.parametrize(
    ("kind", "size", "what"),
    [
        ("lora", TWO_CHECKPOINTS, "checkpoint-6 needs about 0.4 MB"),
        pytest.param("lora", NO_RESULT, "the result", marks=pytest.mark.stress),
        pytest.param("lora-two", TWO_CHECKPOINTS, "checkpoint-6 needs about", marks=pytest.mark.stress),
    ],
)
def test_a_run_waits_for_room(runs, disk, kind, size, what):
    life, run = begin(runs, kind, disk(size), PATIENT)
    life.wait_for(lambda: "The disk is full" in life.text)
    time.sleep(0.5)
    assert newest_checkpoint(run.checkpoints)
    disk(64_000)
    assert not any(life.end().codes), life.text
    assert f"The disk is full: {what}" in life.text
    assert life.text.count("The disk is full") == 1
    assert differences(runs.never_killed(kind).run, run) == []


@pytest.mark.parametrize("sent", [None, pytest.param(signal.SIGTERM, marks=pytest.mark.stress)])
def test_a_run_that_waits_in_vain_stops_with_what_it_has(runs, disk, sent):
    """So does one that gets a signal while it waits."""
    life, run = begin(runs, "lora", disk(TWO_CHECKPOINTS), PATIENT if sent else IMPATIENT)
    life.wait_for(lambda: "The disk is full" in life.text)
    if sent:
        life.signal(sent)
    assert life.end().codes == [143 if sent else 4], life.text
    if not sent:
        assert "The last whole checkpoint is checkpoint-4" in life.text
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["checkpoint-2", "checkpoint-4"]
    disk(64_000)
    assert Life(["train", "--resume", run.path], runs.folder).end().codes == [0]
    assert differences(runs.never_killed("lora").run, run) == []


@pytest.mark.parametrize("size", [4, 100, 5000])
def test_a_line_is_written_whole_or_not_at_all(disk, monkeypatch, capsys, size):
    """A file system gives out pages, so that a line is first written in part."""
    folder = disk(64)
    monkeypatch.setattr(full_disk, "PAUSE", 0.05)
    lines = [{"step": step, "text": "x" * size} for step in range(200_000 // (size + 30))]

    def write() -> None:
        for line in lines:
            append(folder / "lines.jsonl", line)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.3)
    assert writer.is_alive()
    assert (folder / "lines.jsonl").read_bytes().endswith(b"}\n")
    disk(1000)
    writer.join()
    assert len((folder / "lines.jsonl").read_text().splitlines()) == len(lines)
    assert "lines.jsonl cannot be written" in capsys.readouterr().err


def test_a_full_disk_before_the_run_is_said_plainly(runs, disk):
    folder = disk(4)
    (folder / "filler").write_bytes(b"x" * 4096)
    life = Life(runs.start("lora", str(folder / "run")), runs.folder).end()
    assert life.codes == [4], life.text
    assert "The disk is full" in life.text
    assert "Traceback" not in life.text
