"""Telling one base model from another by its weights, without reading them all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from xtune.model.safetensors_header import read_header

_SAMPLE = 4096  # bytes read at the start and in the middle of each tensor


def fingerprint(directory: Path) -> str:
    """A hash over every tensor's name, dtype and shape and 8 KiB of its data.

    It changes with any training (which moves all weights) and does not with how tensors are spread over
    files. Files other than *.safetensors count by name and size.
    """
    tensors: dict[str, bytes] = {}
    for file in sorted(directory.glob("*.safetensors")):
        header, data = read_header(file)
        with open(file, "rb") as stream:
            for name, tensor in header.items():
                begin, end = tensor["data_offsets"]
                digest = hashlib.sha256(f"{name} {tensor['dtype']} {tensor['shape']}".encode())
                for place in (begin, (begin + end) // 2):
                    stream.seek(data + place)
                    digest.update(stream.read(min(_SAMPLE, end - place)))
                tensors[name] = digest.digest()
    for file in sorted(directory.glob("*.bin")):
        tensors[file.name] = str(file.stat().st_size).encode()
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:32]
