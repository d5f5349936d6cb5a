"""A full disk: what could not be written is tried again for some minutes, in which someone may free space."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from xtune.home import is_disk_full
from xtune.terminal import messages
from xtune.training.stopping import Stopped, asked

PAUSE = 10.0
"""Seconds between two attempts."""
ATTEMPTS = 30


def until_there_is_room(write: Callable[[], None], what: str, folder: Path, needed: int = 0) -> None:
    """Call `write`, again and again where the disk is full; in the end its error is raised. In several processes, it
    has to fail in all of them or in none.

    needed   bytes, about; 0 where it is little

    Raises Stopped where a signal comes meanwhile.
    """
    for attempt in range(ATTEMPTS + 1):
        try:
            write()
            return
        except Exception as error:
            if attempt == ATTEMPTS or not is_full(error):
                raise
            if asked():
                raise Stopped(asked(), "The disk is full.") from error
        if attempt == 0:
            takes = f" needs about {_megabytes(needed)} and" if needed else ""
            free = _megabytes(shutil.disk_usage(folder).free)
            messages().print(
                f"The disk is full: {what}{takes} cannot be written, {free} are free in {folder}. "
                f"Trying again for {PAUSE * ATTEMPTS:.0f} seconds.",
                soft_wrap=True,
                markup=False,
            )
        _pause()


def is_full(error: Exception) -> bool:
    """Whether this process or another of the run has found the disk full."""
    return is_disk_full(error) or getattr(error, "of_full_disk", False)


def _pause() -> None:
    deadline = time.monotonic() + PAUSE
    while not asked() and time.monotonic() < deadline:
        time.sleep(min(0.2, PAUSE))


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
