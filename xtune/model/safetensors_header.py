"""What a safetensors file says of its tensors, without reading them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from xtune.errors import UsageError

_LONGEST = 100_000_000  # bytes of a header, as safetensors itself allows


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """({tensor: {"dtype", "shape", "data_offsets"}}, the byte at which data begins, where offsets count from).

    Raises UsageError for a file that is something else, or has not all the bytes its header tells of.
    """
    if substitute := instead_of_weights(file):
        raise UsageError(f"{file.name} {substitute}.", where=str(file), fix="Download the file itself again.")
    with open(file, "rb") as stream:
        start = stream.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else _LONGEST
        header = stream.read(min(size, _LONGEST))
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UsageError(
            f"{file.name} is not a safetensors file, or only the beginning of one.",
            where=str(file),
            fix="Download the file again.",
        ) from None
    data = 8 + size
    if (present := file.stat().st_size) < data + end:
        raise UsageError(
            f"{file.name} is cut short: it has {present:,} of {data + end:,} bytes.",
            where=str(file),
            fix="Download the file again.",
        )
    return tensors, data


def instead_of_weights(file: Path) -> str | None:
    """What a failed download left in a file's place; None where it is neither of the usual things."""
    with open(file, "rb") as stream:
        start = stream.read(64).lstrip().lower()
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer: the repository was cloned without `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page, not the file that was asked for"
    return None
