"""The encoded data set: all samples of a recipe as token ids, made once and kept by content.

On disk a data set is one flat array of ids, one of labels and the offsets between samples, mapped into
memory rather than read. Its directory is named by a hash of all it depends on: file contents, formats,
template, tokenizer, options and the code that made it. Changing the learning rate encodes nothing again;
touching a row does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtune.data.encode import NO_LABEL, Encoded, encode_rendered
from xtune.data.read import read_source
from xtune.data.report import DataReport
from xtune.data.turns import split_turns
from xtune.errors import DataError
from xtune.home import home, new_directory
from xtune.messages import Sample
from xtune.recipe.schema import Data
from xtune.templates.render import render
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CHUNK = 1024  # samples encoded at once: enough to keep all cores busy, little to hold in memory


@dataclass(frozen=True)
class Dataset:
    """Encoded samples; `dataset[i]` is the i-th as Encoded.

    input_ids   int32 [all tokens], samples one after another
    labels      int32 [all tokens], as in Encoded
    offsets     int64 [samples + 1]: sample i is input_ids[offsets[i]:offsets[i + 1]]
    sources     file:line of each sample
    report      DataReport.to_dict() of the reading and encoding
    summary     the same report, for people
    """

    input_ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    sources: list[str]
    report: dict[str, Any]
    summary: str

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Encoded:
        span = slice(self.offsets[index], self.offsets[index + 1])
        return Encoded(self.input_ids[span], self.labels[span])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 [samples]."""
        return np.diff(self.offsets)

    @property
    def loss_lengths(self) -> np.ndarray:
        """Tokens with loss of each sample, int64 [samples]."""
        return np.add.reduceat(self.labels != NO_LABEL, self.offsets[:-1], dtype=np.int64)


def load_dataset(data: Data, tokenizer: PreTrainedTokenizerFast, template: Template) -> Dataset:
    """The data set of a recipe's `data` section, encoded now or taken from the cache.

    Raises DataError where a file cannot be read, where `overlong` is "error" and a sample is too long, and
    where nothing is left to train on.
    """
    directory = home() / "datasets" / _key(data, tokenizer, template)
    if not directory.is_dir():
        with new_directory(directory) as work:
            _encode_into(work, data, tokenizer, template)
    about = json.loads((directory / "about.json").read_text(encoding="utf-8"))
    arrays = {
        name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in ("input_ids", "labels", "offsets")
    }
    return Dataset(**arrays, **about)


def _encode_into(directory: Path, data: Data, tokenizer, template: Template) -> None:
    reports = [DataReport() for _ in data.sources]
    ids, labels, sources = [], [], []
    for source, report in zip(data.sources, reports, strict=True):
        samples = read_source(source, report)
        while chunk := list(islice(samples, _CHUNK)):
            for sample, parts in _encode_chunk(chunk, tokenizer, template, report):
                for encoded in _keep(parts, sample, data, report):
                    ids.append(encoded.input_ids)
                    labels.append(encoded.labels)
                    sources.append(sample.source)
    report = sum(reports, DataReport())
    if not sources:
        raise DataError(
            f"Nothing is left to train on.\n{report}",
            where=", ".join(source.path for source in data.sources),
            fix="Raise data.max_length, or put the records right.",
        )
    np.save(directory / "input_ids.npy", np.concatenate(ids))
    np.save(directory / "labels.npy", np.concatenate(labels))
    np.save(directory / "offsets.npy", np.cumsum([0, *map(len, ids)], dtype=np.int64))
    about = {"sources": sources, "report": report.to_dict(), "summary": str(report)}
    (directory / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _encode_chunk(
    samples: list[Sample], tokenizer, template: Template, report: DataReport
) -> Iterator[tuple[Sample, list[Encoded]]]:
    """Each sample with its encoding; with several where the template shows earlier turns otherwise."""
    rendered, kept = [], []
    for sample in samples:
        try:
            parts = [
                render(part.messages, template=template, tools=sample.tools)
                for part in split_turns(sample, template)
            ]
        except DataError as error:
            report.reject(error.what, sample.source)
        else:
            rendered += parts
            kept.append((sample, len(parts)))
    encoded = iter(encode_rendered(rendered, tokenizer, template))
    return ((sample, list(islice(encoded, count))) for sample, count in kept)


def _keep(parts: list[Encoded], sample: Sample, data: Data, report: DataReport) -> list[Encoded]:
    """Those that can be trained on; the record is rejected where none can."""
    kept, faults = [], []
    for encoded in parts:
        if len(encoded) > data.max_length:
            if data.overlong == "error":
                raise DataError(
                    f"A sample has {len(encoded)} tokens, more than data.max_length = {data.max_length}.",
                    where=sample.source,
                    fix='Raise data.max_length, or set data.overlong = "drop".',
                )
            faults.append((f"longer than max_length ({data.max_length} tokens)", f"{len(encoded)} tokens"))
        elif not encoded.loss_mask[1:].any():  # the first token is never predicted
            faults.append(("no token carries loss", ""))
        else:
            kept.append(encoded)
    if not kept:
        report.reject(faults[0][0], sample.source, faults[0][1])
    elif faults:
        report.repair(f"turn left out: {faults[0][0]}", sample.source)
    return kept


def _key(data: Data, tokenizer, template: Template) -> str:
    """A hash of everything the encoded data set depends on."""
    digest = hashlib.sha256(_code_hash())
    for source in data.sources:
        digest.update(source.model_dump_json().encode())
        digest.update(_file_hash(source.path))
    options = data.model_dump(include={"max_length", "overlong"})
    for part in (options, asdict(template), tokenizer.backend_tokenizer.to_str()):
        digest.update(json.dumps(part).encode())
    return digest.hexdigest()[:32]


def _file_hash(path: str) -> bytes:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return b""  # reading it says what is wrong
    return digest.digest()


@cache
def _code_hash() -> bytes:
    """Of the code between a file and its ids, so that a corrected mapper never meets an old cache."""
    package = Path(__file__).parents[1]
    files = [*package.glob("data/**/*.py"), package / "messages.py", package / "templates" / "render.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).digest()
