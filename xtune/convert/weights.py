"""What the weights of a model directory are on disk: their type and their size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.model.health import read_pickled, read_weights

if TYPE_CHECKING:
    from torch import Tensor

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one weight, by type."""


def dtype_on_disk(directory: Path) -> str:
    """The type that most weights of a model have on disk; what config.json says is not always true."""
    elements: Counter[str] = Counter()
    for tensor in read_weights(directory).tensors.values():
        elements[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return next((name for name, _ in elements.most_common() if name in ITEMSIZE), "float32")


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
    if not any(directory.glob("model*.safetensors")):
        for file in sorted(directory.glob("pytorch_model*.bin")):
            tensors = read_pickled(file, "cpu")
            yield from ((name, tensor) for name, tensor in tensors.items() if wanted(name))
