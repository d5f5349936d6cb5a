"""Where xtune keeps what it can make again (converted models, encoded data), and writing to disk safely."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def home() -> Path:
    """The user's cache directory: $XTUNE_HOME, or ~/.cache/xtune."""
    return Path(os.environ.get("XTUNE_HOME") or Path.home() / ".cache" / "xtune").expanduser()


@contextmanager
def new_directory(target: Path, replace: bool = False) -> Iterator[Path]:
    """A directory to write in that becomes `target` when all is written, and never half of it.

    The work happens beside `target` and is renamed at the end. Where another process made the same target
    in the meantime, that one is kept: both were made from the same content.

    replace   take the place of a target that is there
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    old = work.with_name(f"{work.name}-old")
    try:
        yield work
        for path in work.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # some writers make private files
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
            else:
                sync_folder(path)
        work.chmod(0o755)  # mkdtemp made it private
        sync_folder(work)
        if replace and target.is_dir():
            os.rename(target, old)
        try:
            os.rename(work, target)
        except OSError:
            if not target.is_dir():
                raise
        sync_folder(target.parent)
    finally:
        for path in (work, old):
            shutil.rmtree(path, ignore_errors=True)


def stays_within(name: str) -> bool:
    """Whether a name, as a file lists those of others, leads to nowhere outside of the folder that it starts from."""
    return not os.path.isabs(name) and ".." not in Path(name).parts


def write_whole(file: Path, content: str | bytes, by_many: bool = False) -> None:
    """Write a file that has all of the content or, if it was there, what it had before.

    by_many   other processes may write it at the same time
    """
    work = file.with_name(f".{file.name}-{os.getpid()}" if by_many else f".{file.name}")
    with open(work, "wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
        opened.flush()
        os.fsync(opened.fileno())
    work.replace(file)


def sync_folder(folder: Path) -> None:
    """See that the names in a folder are on the disk."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error came of a full disk, a quota or a limit on file size.

    safetensors (Rust) and torch's zip writer raise errors of their own that say so in words only.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    text = str(error)
    told = re.search(r"os error (\d+)", text)
    return int(told[1]) in _FULL if told else "file write failed" in text or "unexpected pos" in text
