"""Whether the weight files of a model directory are whole and hold what the model needs, told from their headers.

The names and shapes in the headers go through the same loader as the tensors would, as tensors without data:
what is missing, unexpected or of another shape here is so in earnest.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xtune.errors import UsageError
from xtune.families import read_native_config
from xtune.families.family import Layout, Options
from xtune.families.layout import Fused, heads, original_name
from xtune.home import stays_within
from xtune.model.safetensors_header import instead_of_weights, read_header

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

FORMATS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""A single file, or the index of its shards, in the order in which transformers looks for them."""

# As safetensors and torch name them, with their bytes. Whatever else there may be counts as bytes.
_TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}


class Problem(NamedTuple):
    """What is wrong with a checkpoint, where, and what to do; of tensors, which ones."""

    what: str
    where: str
    fix: str
    tensors: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """In one line, with the first tensors by name."""
        names = ", ".join(self.tensors[:5]) + (" …" if len(self.tensors) > 5 else "")
        return f"{self.what} ({len(self.tensors)}): {names}" if names else self.what

    def __str__(self) -> str:
        return str(UsageError(self.summary, where=self.where, fix=self.fix))


class Stored(NamedTuple):
    """A tensor in a file: its shape, torch's name of its type, and the bytes of a number in it."""

    shape: tuple[int, ...]
    dtype: str
    itemsize: int

    @property
    def elements(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


class Weights(NamedTuple):
    """The weight files that are loaded, their tensors, and what is wrong with the files."""

    files: tuple[Path, ...]
    tensors: dict[str, Stored]
    problems: tuple[Problem, ...]

    def without_data(self) -> dict[str, Tensor]:
        """The tensors, on the device "meta"."""
        import torch

        return {
            name: torch.empty(stored.shape, dtype=getattr(torch, stored.dtype), device="meta")
            for name, stored in self.tensors.items()
        }


def read_weights(directory: Path) -> Weights:
    """The headers of a model directory's weight files. Reads no weights, and runs nothing that a .bin holds."""
    problems: list[Problem] = []
    try:
        check_index(directory)
        files = _files(directory, problems)
    except UsageError as error:
        problems, files = [Problem(error.what, str(error.where), str(error.fix))], []
    tensors: dict[str, Stored] = {}
    for file in files:
        try:
            tensors |= _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
        except UsageError as error:
            problems.append(Problem(error.what, str(error.where), str(error.fix)))
        except OSError as error:
            problems.append(
                Problem(f"{file.name} cannot be read: {error}", str(file), "Check its permissions.")
            )
    return Weights(tuple(files), tensors, tuple(problems))


def _files(directory: Path, problems: list[Problem]) -> list[Path]:
    for single, index in FORMATS:
        if (directory / single).is_file():
            return [directory / single]
        if (directory / index).is_file():
            return _shards(directory / index, problems)
    shards = sorted(file.name for file in directory.glob("*-of-*") if file.suffix in (".safetensors", ".bin"))
    problems.append(
        Problem(
            f"The index of the weight files is missing; there are {shards[0]} and others."
            if shards
            else "There are no weights.",
            str(directory),
            "Copy *.index.json as well." if shards else "Copy *.safetensors, or pytorch_model*.bin, as well.",
        )
    )
    return []


_NO_INDEX = (ValueError, KeyError, TypeError, AttributeError)


def _names(index: Path) -> list[str]:
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _shards(index: Path, problems: list[Problem]) -> list[Path]:
    try:
        names = _names(index)
    except _NO_INDEX:
        reason = instead_of_weights(index) or "is not an index of weight files"
        problems.append(Problem(f"{index.name} {reason}.", str(index), "Download the file again."))
        return []
    files = [index.parent / name for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        problems.append(
            Problem(
                f"{len(missing)} of {len(files)} weight files are missing: "
                + ", ".join(missing[:5])
                + (" …" if len(missing) > 5 else ""),
                str(index),
                "Download them as well.",
            )
        )
    return [file for file in files if file.is_file()]


def check_index(directory: Path) -> None:
    """Raise UsageError where an index names files outside of a model's directory, which transformers would read."""
    for _, index in FORMATS:
        with suppress(OSError, *_NO_INDEX):
            for name in _names(directory / index):
                if not stays_within(name):
                    raise UsageError(
                        f"{index} names what lies outside of the model's folder: {name}",
                        where=str(directory),
                        fix="Download the model again, from a publisher whom you trust.",
                    )


def _safetensors(file: Path) -> dict[str, Stored]:
    header, _ = read_header(file)
    return {
        name: Stored(tuple(tensor["shape"]), *_TYPES.get(tensor["dtype"], ("uint8", 1)))
        for name, tensor in header.items()
    }


def _pickled(file: Path) -> dict[str, Stored]:
    return {
        name: Stored(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.dtype.itemsize)
        for name, tensor in read_pickled(file).items()
    }


def read_pickled(file: Path, device: str = "meta") -> dict[str, Tensor]:
    """The tensors of a pytorch_model*.bin, mapped into memory or without data. Raises UsageError for one that is
    damaged, or holds more than tensors."""
    import torch

    again = "Download the file again."
    if substitute := instead_of_weights(file):
        raise UsageError(f"{file.name} {substitute}.", where=str(file), fix=again)
    if not zipfile.is_zipfile(file):
        with open(file, "rb") as stream:
            cut = stream.read(2) == b"PK"
        if cut:
            raise UsageError(f"{file.name} is cut short.", where=str(file), fix=again)
        raise UsageError(
            f"{file.name} is no zip archive: damaged, or written by a PyTorch before 1.6.",
            where=str(file),
            fix="Download it again, or write it anew: torch.save(torch.load(file, weights_only=True), file)",
        )
    try:
        tensors = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        raise UsageError(
            f"{file.name} holds more than tensors, and is not opened: on loading it would call "
            f"{wanted[1] if wanted else 'code'}.",
            where=str(file),
            fix="If you trust its publisher, convert it to safetensors with the publisher's own code, in an "
            "environment that holds nothing of value.",
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{file.name} is damaged: {reason}", where=str(file), fix=again) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise UsageError(
            f"{file.name} is not a table of tensors by name.",
            where=str(file),
            fix="Use the publisher's weight files, not a checkpoint of training.",
        )
    return tensors


def meta_model(directory: Path, layout: Layout | None, options: Options) -> PreTrainedModel:
    """The model without weights, on the device "meta"."""
    import torch

    from xtune.families.reward_model import native_class

    with torch.device("meta"):
        if layout:
            return layout.model_class(layout.native_config)
        config = read_native_config(directory, options)
        return native_class(config).from_config(config)


def check_tensors(
    weights: Weights,
    directory: Path,
    model: PreTrainedModel,
    layout: Layout | None,
) -> list[Problem]:
    """What the tensors in the headers lack, have too many, or have in other shapes than the (meta) model wants.

    Where files are missing or damaged, what lacks because of them is not told again.
    """
    tensors, problems, config = weights.without_data(), [], model.config
    table = layout.weights if layout else ()
    wrong = _misshapen(tensors, table, config)
    for name in wrong:
        del tensors[name]
    model_class = type(model)
    if layout:
        from xtune.model.original import reader_class

        model_class = reader_class(layout)
    try:
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,  # told instead of raised
            output_loading_info=True,
        )
    except (RuntimeError, ValueError, KeyError):  # transformers names no tensor, but points at what it logged
        return [
            Problem(
                "Layers that are made of several tensors (experts, for example) lack some, or these differ in shape.",
                str(directory),
                _AGAIN,
            )
        ]
    wrong |= {
        original_name(name, table): f"{list(found)} instead of {list(wanted)}"
        for name, found, wanted in info["mismatched_keys"]
    }
    missing = {original_name(name, table) for name in info["missing_keys"]} - wrong.keys()
    for what, names in (
        ("Missing tensors", () if weights.problems else missing),
        ("Tensors of another shape than config.json says", [f"{name} {wrong[name]}" for name in wrong]),
        (
            "Tensors without a place in the model",
            (original_name(name, table) for name in info["unexpected_keys"]),
        ),
    ):
        if names := tuple(sorted(names, key=_by_number)):
            problems.append(Problem(what, str(directory), _AGAIN, names))
    return problems


_AGAIN = "Copy config.json and all weight files again, from one download."


def _misshapen(tensors: dict[str, Tensor], table: Iterable, config: PreTrainedConfig) -> dict[str, str]:
    """Fused layers that cannot be split into heads, over which transformers' loader would stumble."""
    wrong = {}
    for entry in table:
        if isinstance(entry, Fused):
            query, groups, size = heads(config)
            rows = (query + 2 * groups) * size
            for name, tensor in tensors.items():
                if entry.original in name and tensor.shape[:1] != (rows,):
                    wrong[name] = f"{list(tensor.shape)} instead of {[rows, *tensor.shape[1:]]}"
    return wrong


def _by_number(name: str) -> list:
    """Layer 2 before layer 10."""
    return [part.zfill(6) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
