"""Files of a run that get a line, or a few, at each step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xtune.training.full_disk import until_there_is_room


def append(file: Path, *records: dict[str, Any]) -> None:
    """Write records, a line each: all of them, or none where the disk stays full."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()

    def write() -> None:
        with open(file, "ab", buffering=0) as lines:
            end = lines.tell()
            try:
                written = 0
                while written < len(text):  # a disk that fills up takes a part first
                    written += lines.write(text[written:])
            except OSError:
                lines.truncate(end)
                raise

    until_there_is_room(write, file.name, file.parent)


def keep_until(file: Path, step: int) -> None:
    """Drop the lines behind a step, whose steps come again, and the last line of a killed run that was cut short.

    In one operation: what is kept is never out of the file.
    """
    if file.is_file():
        os.truncate(file, sum(len(line) for line in _up_to(file, step)))


def has_step(file: Path, step: int) -> bool:
    """Whether there is a line of a step."""
    return file.is_file() and any(json.loads(line)["step"] == step for line in _up_to(file, step))


def _up_to(file: Path, step: int) -> Iterable[bytes]:
    for line in file.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n") or json.loads(line)["step"] > step:
            return
        yield line
