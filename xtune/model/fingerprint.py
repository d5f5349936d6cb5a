"""Telling one base model from another by its weights, without reading them all."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

_SAMPLE = 4096  # bytes read at the start and in the middle of each tensor


def fingerprint(directory: Path) -> str:
    """A hash over every tensor's name, dtype and shape and 8 KiB of its data.

    It changes with any training (which moves all weights) and does not with how tensors are spread over
    files. Files other than *.safetensors count by name and size.
    """
    tensors: dict[str, bytes] = {}
    for file in sorted(directory.glob("*.safetensors")):
        with open(file, "rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                begin, end = tensor["data_offsets"]
                digest = hashlib.sha256(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
                for place in (begin, (begin + end) // 2):
                    stream.seek(8 + size + place)
                    digest.update(stream.read(min(_SAMPLE, end - place)))
                tensors[name] = digest.digest()
    for file in sorted(directory.glob("*.bin")):
        tensors[file.name] = str(file.stat().st_size).encode()
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:32]
