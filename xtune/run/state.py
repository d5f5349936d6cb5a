"""How far a run has come, and how it ended: state.json in its directory, and its lock."""

from __future__ import annotations

import fcntl
from datetime import datetime
from typing import Any

from xtune.run.directory import Run

_FILE = "state.json"


def begin(run: Run, **facts: Any) -> None:
    """Say that a process trains the run now.

    facts   what else is known by then, as plain JSON: steps (in all), template, ...
    """
    run.write_json(_FILE, {"state": "running", "begun": _now(), **facts})


def end(run: Run, state: str, why: str | None = None) -> None:
    """Say how it ended: "finished", "stopped" (by a signal) or "failed", and why."""
    run.write_json(_FILE, {**read(run), "state": state, "ended": _now(), "why": why})


def read(run: Run) -> dict[str, Any]:
    """What `begin` and `end` have said. A run that says it is running, but that no process trains, was "killed"."""
    told = {"state": "finished" if run.result else "running"}  # of an earlier version, which had no such file
    told |= run.read_json(_FILE) or {}
    if is_locked(run):  # also one that goes on, and still reads model and data
        told["state"] = "running"
    elif told["state"] == "running":
        told["state"] = "killed"
    return told


def is_locked(run: Run) -> bool:
    """Whether a process trains the run now."""
    try:
        with open(run.path / ".lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock yet, or a file system without locks
        pass
    return False


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
