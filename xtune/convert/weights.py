"""The weights of a model directory on disk: their type, their size, and each tensor by the name it has in the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import UsageError
from xtune.families.family import Layout
from xtune.families.layout import Fused, original_name, split_rows
from xtune.model.health import read_pickled, read_weights
from xtune.model.safetensors_header import read_header

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

ITEMSIZE = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one weight, by type."""


def dtype_on_disk(directory: Path) -> str:
    """The type that most weights of a model have on disk; what config.json says is not always true."""
    elements: Counter[str] = Counter()
    for stored in read_weights(directory).tensors.values():
        elements[stored.dtype] += stored.elements
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


class StoredWeights:
    """The tensors of a model directory, read one at a time.

    files    names of the tensors in each weight file, in their order there
    parts    of each tensor on disk, the model's own: three of a fused layer, none of what the model makes itself
    places   where each tensor of the model is: its name on disk, and the number of its part

    model    whose weights they are; only its names and config are used
    Raises UsageError where files are missing or damaged.
    """

    def __init__(self, directory: Path, layout: Layout | None, model: PreTrainedModel):
        weights = read_weights(directory)
        for problem in weights.problems:
            raise UsageError(problem.summary, where=problem.where, fix=problem.fix)
        self.shapes = weights.without_data()
        """Tensors without data, by their names on disk."""
        self.files = {file: _names_in(file) for file in weights.files}
        self._file_of = {name: file for file, names in self.files.items() for name in names}
        self._fused = {}
        self._config = model.config
        if layout:
            self.parts = self._published(layout, model)
        else:
            self.parts = _transformers_names(model, self.shapes)
        self.places = {
            part: (name, number) for name, parts in self.parts.items() for number, part in enumerate(parts)
        }
        self._last: tuple[str, Tensor] | None = None  # parts of a fused layer are asked for in turn

    def on_disk(self, name: str) -> Tensor:
        """A tensor by its name on disk. The last one is kept, and not to be written to."""
        if self._last is None or self._last[0] != name:
            self._last = None  # before another takes memory
            self._last = name, self._read(name)
        return self._last[1]

    def part(self, name: str) -> Tensor:
        """A tensor by the model's name, with the type that it has on disk."""
        stored, number = self.places[name]
        tensor = self.on_disk(stored)
        return (
            split_rows(tensor, self._fused[stored], self._config)[number] if stored in self._fused else tensor
        )

    def raw(self, name: str) -> tuple[Path, int, int] | None:
        """File, first and last byte (exclusive) of a tensor by its name on disk; None in a pickled file."""
        file = self._file_of[name]
        if file.suffix != ".safetensors":
            return None
        header, data = _header(file)
        begin, end = header[name]["data_offsets"]
        return file, data + begin, data + end

    def fused_rows(self, name: str) -> str | None:
        """How the rows of a fused layer are ordered (see Fused); None for any other tensor on disk."""
        return self._fused.get(name)

    def _published(self, layout: Layout, model: PreTrainedModel) -> dict[str, list[str]]:
        fused = {part: entry for entry in layout.weights if isinstance(entry, Fused) for part in entry.native}
        order = list(fused)
        parts: dict[str, list[str]] = {name: [] for name in self.shapes}
        for name in model.state_dict():
            stored = original_name(name, layout.weights)
            if stored in parts:
                parts[stored].append(name)
                if piece := next((piece for piece in fused if piece in name), None):
                    self._fused[stored] = fused[piece].rows
        for names in parts.values():
            names.sort(key=lambda name: next((i for i, piece in enumerate(order) if piece in name), 0))
        return parts

    def _read(self, name: str) -> Tensor:
        import torch

        place = self.raw(name)
        if place is None:
            return _pickled(self._file_of[name])[name]
        file, begin, _ = place
        shape = self.shapes[name]
        tensor = torch.empty(shape.shape, dtype=shape.dtype)
        with open(file, "rb") as stream:
            stream.seek(begin)
            stream.readinto(as_bytes(tensor))
        return tensor


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    import torch

    return memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())


def _names_in(file: Path) -> list[str]:
    if file.suffix != ".safetensors":
        return list(read_pickled(file))
    header, _ = _header(file)
    return sorted(header, key=lambda name: header[name]["data_offsets"])


_header = lru_cache(maxsize=512)(read_header)
_pickled = lru_cache(maxsize=1)(lambda file: read_pickled(file, "cpu"))


def _transformers_names(model: PreTrainedModel, stored: dict[str, Tensor]) -> dict[str, list[str]]:
    """As transformers renames tensors on loading. What it puts together of several has no counterpart here."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if entry not in renamings]
    state = model.state_dict()
    parts = {}
    for name in stored:
        own, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        parts[name] = [own] if own in state and converted is None else []
    return parts
