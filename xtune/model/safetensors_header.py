"""What a safetensors file says of its tensors, without reading them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def read_header(file: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """({tensor: {"dtype", "shape", "data_offsets"}}, the byte at which data begins, where offsets count from)."""
    with open(file, "rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        tensors = json.loads(stream.read(size))
    tensors.pop("__metadata__", None)
    return tensors, 8 + size
