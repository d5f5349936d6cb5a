"""Writes new files whole or not at all, and never over anything that is there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from xtune.errors import ResourceError, UsageError
from xtune.home import is_disk_full


def check_targets(targets: Sequence[Path], sources: Sequence[str], force: bool) -> None:
    """Check that the files can be written. Raises UsageError.

    sources  files and directories that are read: never written to, even by force
    """
    if len({target.resolve() for target in targets}) < len(targets):
        raise UsageError("Two of the files to write are the same.", where=str(targets[0]), fix="name another")
    read = [Path(source).resolve() for source in sources]
    for target in targets:
        place = target.resolve()
        if any(source in (place, *place.parents) for source in read):
            raise UsageError(
                "This would be written where the data is read from.",
                where=str(target),
                fix="name another OUT",
            )
        # What is no plain file (a directory, a link, a device) is not written over by force either.
        plain = target.is_file() and not target.is_symlink()
        if os.path.lexists(target) and not (plain and force):
            raise UsageError(
                "There is something already.",
                where=str(target),
                fix="name another OUT" + (", or add --force" if plain else ""),
            )


@contextmanager
def new_file(target: Path) -> Iterator[TextIO]:
    """A UTF-8 text file to write in that becomes `target` when all is written, and never half of it.

    Raises ResourceError where the disk is full, UsageError where nothing can be written there.
    """
    work = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", prefix=f".{target.name}-", dir=target.parent, delete=False
        ) as file:
            work = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        work.chmod(0o644)  # it was made private
        work.replace(target)
    except OSError as error:
        if is_disk_full(error):
            raise ResourceError(
                "The disk is full, or a limit on file size is reached; nothing was kept.",
                where=str(target.parent),
                fix="Free some space, or name an OUT on another disk.",
            ) from error
        if work and error.filename != str(work):
            raise  # of something else that was done meanwhile
        raise UsageError(
            f"The file cannot be written: {error.strerror}.", where=str(target), fix="name another OUT"
        ) from error
    finally:
        if work:
            work.unlink(missing_ok=True)
