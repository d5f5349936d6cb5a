"""Room on the disk: checked before writing, and said plainly where it runs out all the same."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xtune.errors import ResourceError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_space(out: Path, size: int) -> None:
    """Raises ResourceError where fewer than `size` bytes are free at `out`, which need not exist yet."""
    place = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < size:
        raise ResourceError(
            f"There is not enough room: {_gigabytes(size)} GB are needed, {_gigabytes(free)} GB are free.",
            where=str(place),
            fix="Free some space, or name an OUT on another disk.",
        )


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turns a disk that is full into a ResourceError, and one that cannot be written to into a UsageError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        if number is None and (told := re.search(r"os error (\d+)", str(error))):
            number = int(told[1])  # safetensors writes in Rust and has only words for it
        if number in _FULL:
            raise ResourceError(
                "The disk is full, or a limit on file size is reached; nothing was kept.",
                where=str(out.parent),
                fix="Free some space, or name an OUT on another disk.",
            ) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UsageError(
                f"Nothing can be written there: {error}", where=str(out.parent), fix="Name another OUT."
            ) from error
        raise


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f}"
