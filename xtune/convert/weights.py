"""What the weights of a model directory are on disk: their type and their size."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.families import read_config
from xtune.model.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one weight, by type."""

_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}  # as safetensors names them


def dtype_on_disk(directory: Path) -> str:
    """The type that most weights of a model have on disk; what config.json says is not always true."""
    elements: Counter[str] = Counter()
    for file in directory.glob("*.safetensors"):
        tensors, _ = read_header(file)
        for tensor in tensors.values():
            elements[tensor["dtype"]] += math.prod(tensor["shape"])
    for _, tensor in _pickled(directory, bool):
        elements[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    known = [name for name, _ in elements.most_common() if _TYPES.get(name, name) in ITEMSIZE]
    if known:
        return _TYPES.get(known[0], known[0])
    config = read_config(directory)
    named = config.get("dtype") or config.get("torch_dtype")
    return named if named in ITEMSIZE else "float32"


def size_on_disk(directory: Path) -> int:
    """Bytes of the weight files. Publishers may have the same weights beside them in another layout."""
    files = [*directory.glob("model*.safetensors")] or [*directory.glob("pytorch_model*.bin")]
    return sum(file.stat().st_size for file in files)


def read_tensors(directory: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a model directory whose names are wanted, one at a time; the others are not read."""
    from safetensors import safe_open

    for file in sorted(directory.glob("model*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in filter(wanted, tensors.keys()):
                yield name, tensors.get_tensor(name)
    yield from _pickled(directory, wanted)


def _pickled(directory: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    """Those of pytorch_model*.bin, which count where there is no safetensors file."""
    if any(directory.glob("model*.safetensors")):
        return
    import torch

    for file in sorted(directory.glob("pytorch_model*.bin")):
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        yield from ((name, tensor) for name, tensor in tensors.items() if wanted(name))


def write_json(file: Path, content: dict) -> None:
    """Readable JSON."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
