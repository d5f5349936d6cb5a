"""What the weights of a model directory are on disk: their type and their size."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from xtune.families import read_config
from xtune.model.safetensors_header import read_header

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one weight, by type."""

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}  # as safetensors names them


def dtype_on_disk(directory: Path) -> str:
    """The type a model has on disk: config.json says it, or most of its weights are of it."""
    config = read_config(directory)
    named = config.get("dtype") or config.get("torch_dtype")
    if named in ITEMSIZE:
        return named
    elements: Counter[str] = Counter()
    for file in directory.glob("*.safetensors"):
        tensors, _ = read_header(file)
        for tensor in tensors.values():
            elements[tensor["dtype"]] += math.prod(tensor["shape"])
    known = [name for name, _ in elements.most_common() if name in _TYPES]
    return _TYPES[known[0]] if known else "float32"


def size_on_disk(directory: Path) -> int:
    """Bytes of the weight files. Publishers may have the same weights beside them in another layout."""
    files = [*directory.glob("model*.safetensors")] or [*directory.glob("pytorch_model*.bin")]
    return sum(file.stat().st_size for file in files)
