"""Telling one base model from another by its weights, without reading them all."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from xtune.model.safetensors_header import read_header

_SAMPLE = 4096  # bytes read at the start and in the middle of each tensor


def fingerprint(directory: Path) -> str:
    """A hash over every tensor's name, dtype and shape and 8 KiB of its data.

    It changes with any training (which moves all weights) and does not with how tensors are spread over
    files. *.bin files, which are zip archives, count by the checksums that each keeps of its contents.
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
        tensors[file.name] = _checksums(file)
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()[:32]


def _checksums(file: Path) -> bytes:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [f"{entry.filename.split('/', 1)[-1]} {entry.CRC}" for entry in archive.infolist()]
    except zipfile.BadZipFile:  # written by a PyTorch before 1.6
        entries = [str(file.stat().st_size)]
    return hashlib.sha256("\n".join(entries).encode()).digest()
