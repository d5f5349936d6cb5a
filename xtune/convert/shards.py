"""Merged weights written one tensor at a time, in the files that the base has: 70B take the memory of a tensor.

What no adapter changes is copied byte by byte. What one does is summed in float32 (of several adapters, in
float64) and rounded once, to the type that the tensor has on disk.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from xtune.convert.adapted import Adapted
from xtune.convert.nf4 import Nf4
from xtune.convert.weights import StoredWeights, as_bytes
from xtune.errors import UsageError
from xtune.families.family import Layout
from xtune.families.layout import join_rows, original_name
from xtune.families.reward import HEAD, is_reward_model
from xtune.json_file import write_json
from xtune.model.added_tokens import grown_rows
from xtune.terminal import progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_BLOCK = 2**24
_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Types as torch and safetensors call them."""


@dataclass(frozen=True)
class Entry:
    """A tensor to write.

    parts    the model's tensors that it is made of; none: it is copied from `stored`, the base's name of it
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: tuple[str, ...] = ()
    stored: str = ""

    @property
    def size(self) -> int:
        """Bytes of the tensor."""
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass
class Merging:
    """What is merged into what, and how it is written.

    native   in transformers' names and parts, where the base has its publisher's
    nf4      the base's weights are as training saw them
    """

    stored: StoredWeights
    adapted: Adapted
    layout: Layout | None
    native: bool = False
    nf4: Nf4 | None = None
    _waiting: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        model, self.changed = self.adapted.model, self.adapted.changed()
        self.shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        if self.nf4:
            self.changed |= {f"{name}.weight" for name in self.nf4.layers}
        self.rows = {  # of layers that grow with added tokens
            name
            for name, (stored, _) in self.stored.places.items()
            if name in self.shapes
            and len(self.stored.parts[stored]) == 1
            and self.shapes[name] != tuple(self.stored.shapes[stored].shape)
        }
        modules = {module: name for name, module in model.named_modules()}
        self.embedding = f"{modules[model.get_input_embeddings()]}.weight"
        output = model.get_output_embeddings()
        self.output = f"{modules[output]}.weight" if output is not None else ""
        self.normalised = self.native and type(output).__name__ == "NormHead"  # see Baichuan's to_stock
        self.tied = self.adapted.was_tied and self._are_one()
        self.untied = self.tied and self._come_apart()
        added = ([self.output] if self.untied else []) + (
            [f"{HEAD}.weight"] if is_reward_model(model) else []
        )
        self.added = [name for name in added if name not in self.stored.places]
        here = {*self.stored.places, *self.added, *([self.output] if self.tied else [])}
        if lacking := sorted(self.changed - here):
            raise UsageError(
                f"This adapter changes what is in several tensors on disk, such as experts: {lacking[0]}.",
                where="the base model",
                fix="Merge it with PEFT (merge_and_unload), where the whole model fits into memory.",
            )

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A copy of a weight of the base by the model's name, with rows for added tokens."""
        import torch

        if name == self.output and self.tied:
            name = self.embedding
        if name not in self.stored.places:  # a new head
            return torch.zeros(self.shapes[name], dtype=dtype)
        tensor = self.stored.part(name).to(dtype, copy=True)
        if name in self.rows:
            tensor = grown_rows(tensor, self.shapes[name][0], self.adapted.token_ids)
        if self.nf4 and name.removesuffix(".weight") in self.nf4.layers:
            tensor = self.nf4.seen(tensor).to(dtype)
        return tensor

    def merged(self, name: str, dtype: torch.dtype) -> Tensor:
        """A weight of the merged model, before it is rounded: float32, or float64."""
        import torch

        compute = torch.float32 if self.adapted.plain and dtype != torch.float64 else torch.float64
        owner = name.rpartition(".")[0]
        if owner in self.adapted.layers and name not in self._waiting:
            self._waiting |= self.adapted.merged(owner, lambda each: self.read(each, compute))
        return self._waiting.pop(name) if name in self._waiting else self.beside_layers(name, compute)

    def beside_layers(self, name: str, dtype: torch.dtype) -> Tensor:
        """A weight that is in none of the layers with an adapter."""
        tensor = self.read(name, dtype)
        if name in self.adapted.replaced:
            tensor = self.adapted.sum_of_replaced(name, tensor)
        return tensor

    def _are_one(self) -> bool:
        """Whether the base's files agree with its config.json, which has both embeddings tied."""
        import torch

        held = [
            self.stored.part(name) for name in (self.embedding, self.output) if name in self.stored.places
        ]
        return len(held) < 2 or torch.equal(*held)

    def _come_apart(self) -> bool:
        """Whether an adapter makes two layers different that the base has tied."""
        import torch

        if not {self.embedding, self.output} & self.changed:
            return False
        one, other = (self.merged(name, torch.float32) for name in (self.embedding, self.output))
        return not torch.equal(one, other)

    def entries(self) -> dict[str, list[Entry]]:
        """The tensors to write, by the names of files."""
        files = {}
        for file, names in self.stored.files.items():
            found = [entry for name in names for entry in self._entries_of(name)]
            if found:
                files[_new_name(file)] = found
        for name in self.added:
            like = self.stored.places[self.embedding][0]
            own = name if self.native or not self.layout else original_name(name, self.layout.weights)
            files[next(reversed(files))].append(
                Entry(own, self.stored.shapes[like].dtype, self.shapes[name], (name,))
            )
        return files

    def _entries_of(self, stored: str) -> list[Entry]:
        shape, parts = self.stored.shapes[stored], self.stored.parts[stored]
        whole = Entry(stored, shape.dtype, tuple(shape.shape), stored=stored)
        if not parts:
            ours = self.layout and any(re.search(pattern, stored) for pattern in self.layout.ignored)
            head = is_reward_model(self.adapted.model) and stored.startswith("lm_head.")
            return [whole] if (ours and not self.native) or (not self.layout and not head) else []
        touched = {*self.changed, *self.rows, *([self.output] if self.normalised else [])}.intersection(parts)
        if self.native and self.layout:
            return [
                Entry(
                    part, shape.dtype, self.shapes[part], (part,) if touched or len(parts) > 1 else (), stored
                )
                for part in parts
            ]
        if not touched:
            return [whole]
        rows = sum(self.shapes[part][0] for part in parts)
        return [Entry(stored, shape.dtype, (rows, *self.shapes[parts[0]][1:]), tuple(parts), stored)]

    def write(self, directory: Path) -> None:
        """Write all files, and the index of several, showing how far it is.

        Raises UsageError where a sum is not a number in the type that it is to have.
        """
        files = self.entries()
        total = sum(entry.size for entries in files.values() for entry in entries)
        with progress("Merging", total, "bytes") as advance:
            for name, entries in files.items():
                with open(directory / name, "wb") as stream:
                    stream.write(_header(entries, self._metadata(name)))
                    for entry in entries:
                        self._write_one(stream, entry)
                        advance(entry.size)
        if len(files) > 1 or list(files) != ["model.safetensors"]:
            index = {entry.name: name for name, entries in files.items() for entry in entries}
            content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
            write_json(directory / "model.safetensors.index.json", content)

    def _metadata(self, name: str) -> dict[str, str]:
        from safetensors import safe_open

        (file,) = (file for file in self.stored.files if _new_name(file) == name)
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return opened.metadata() or {"format": "pt"}
        return {"format": "pt"}

    def _write_one(self, stream: BinaryIO, entry: Entry) -> None:
        if entry.parts:
            stream.write(as_bytes(self.value(entry)))
        elif place := self.stored.raw(entry.stored):
            file, begin, end = place
            with open(file, "rb") as source:
                source.seek(begin)
                while begin < end:
                    block = source.read(min(_BLOCK, end - begin))
                    stream.write(block)
                    begin += len(block)
        else:
            stream.write(as_bytes(self.stored.on_disk(entry.stored).contiguous()))

    def value(self, entry: Entry) -> Tensor:
        """The tensor of an entry that is made of parts."""
        import torch

        parts = [self.merged(part, entry.dtype) for part in entry.parts]
        whole = parts[0]
        if self.normalised and entry.parts == (self.output,):
            whole = torch.nn.functional.normalize(whole)
        if len(parts) > 1:
            whole = join_rows(tuple(parts), self.stored.fused_rows(entry.stored), self.adapted.model.config)
        rounded = whole.to(entry.dtype).contiguous()
        if not rounded.isfinite().all():
            dtype = str(entry.dtype).removeprefix("torch.")
            raise UsageError(
                f"The merged weights are not numbers in {dtype}: the adapter holds NaN, or overflows it.",
                where=entry.name,
                fix="Train again with a lower learning rate, or use an earlier checkpoint.",
            )
        return rounded


def _new_name(file: Path) -> str:
    return file.name if file.suffix == ".safetensors" else f"{file.stem.removeprefix('pytorch_')}.safetensors"


def _header(entries: list[Entry], metadata: dict[str, str]) -> bytes:
    """The beginning of a file in safetensors' format (https://huggingface.co/docs/safetensors)."""
    header: dict[str, object] = {"__metadata__": metadata}
    begin = 0
    for entry in entries:
        dtype = _NAMES[str(entry.dtype).removeprefix("torch.")]
        header[entry.name] = {
            "dtype": dtype,
            "shape": entry.shape,
            "data_offsets": [begin, begin + entry.size],
        }
        begin += entry.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
