"""A place to write to: checked before the work, and said plainly where the disk fills up all the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtune.errors import ResourceError, UsageError, UserError
from xtune.home import is_disk_full

_FIX = "Free some space, or name an OUT on another disk."


def check_place(out: Path, size: int) -> None:
    """Check that a new directory `out` of `size` bytes can be made.

    Raises UsageError where something is there already or nothing can be written, ResourceError where fewer
    bytes are free.
    """
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} exists already.", where="OUT", fix="Name one that does not exist yet.")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise UsageError("Nothing can be written there.", where=str(place), fix="Name another OUT.")
    free = shutil.disk_usage(place).free
    if free < size:
        raise ResourceError(
            f"There is not enough room: {_readable(size)} are needed, {_readable(free)} are free.",
            where=str(place),
            fix=_FIX,
        )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns what comes of a full disk into a ResourceError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise ResourceError(
            "The disk is full, or a limit on file size is reached; nothing was kept.",
            where=str(out.parent),
            fix=_FIX,
        ) from error


def _readable(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
