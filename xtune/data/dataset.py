"""The encoded data set: all samples of a recipe as token ids, made once and kept by content.

On disk a data set is one flat array of ids, one of labels and the offsets between samples, mapped into
memory rather than read. Its directory is named by a hash of all it depends on: file contents, formats,
template, tokenizer, options and the code that made it. Changing the learning rate encodes nothing again;
touching a row does.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtune.data.cache_key import cache_key
from xtune.data.duplicates import Seen
from xtune.data.encoding.encode import NO_LABEL, Encoded, Encoder
from xtune.data.encoding.encode_records import Chunk, Work
from xtune.data.encoding.workers import Workers, encode_in_chunks
from xtune.data.files import Record, data_files
from xtune.data.findings import Reject
from xtune.data.read import open_source, refuse_empty
from xtune.data.recognise import KINDS_OF
from xtune.data.report import DataReport
from xtune.data.spread import Spread
from xtune.home import home, new_directory
from xtune.ranks import ranks
from xtune.recipe.schema import Data, Source
from xtune.templates.template import Template
from xtune.terminal import messages, progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_LARGE = 2 << 20  # bytes
_ARRAYS = ("offsets", "places", "source_of", "groups", "good")


@dataclass(frozen=True)
class Dataset:
    """Encoded samples; `dataset[i]` is the i-th as Encoded, where a sample is one text.

    input_ids   int32 [all tokens], texts one after another; of a preference pair: chosen, rejected
    labels      int32 [all tokens], as in Encoded
    offsets     int64 [texts + 1]: text i is input_ids[offsets[i]:offsets[i + 1]]
    places      int64 [samples, 3]: number of the file in `files`, line, column (0 for none) of each sample's record
    source_of   int32 [samples]: number of the source in the recipe
    groups      uint64 [samples]: samples of one group may not be parted by a held-out split
    good        bool [samples]: of labelled answers, whether it is a good one
    rows        of prompts, for each sample: {"messages", "answer", "columns"} as JSON
    report      DataReport.to_dict() of the reading and encoding
    summary     the same report, for people
    """

    input_ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    places: np.ndarray
    source_of: np.ndarray
    groups: np.ndarray
    good: np.ndarray
    rows: list[str]
    files: list[str]
    report: dict[str, Any]
    summary: str

    def __len__(self) -> int:
        return len(self.source_of)

    def __getitem__(self, index: int) -> Encoded:
        (text,) = self.texts(index)
        return text

    def texts(self, index: int) -> list[Encoded]:
        """The texts of a sample."""
        width = self.texts_of_one
        spans = [slice(*self.offsets[text : text + 2]) for text in range(index * width, (index + 1) * width)]
        return [Encoded(self.input_ids[span], self.labels[span]) for span in spans]

    @property
    def texts_of_one(self) -> int:
        """Texts of each sample: 2 of preference pairs, else 1."""
        return (len(self.offsets) - 1) // len(self)

    def source(self, index: int) -> str:
        """file:line of the record that a sample came from."""
        file, line, column = self.places[index]
        return Record(line, column, file=self.files[file]).place

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int64 [samples]."""
        return np.diff(self.offsets[:: self.texts_of_one])

    @property
    def full_report(self) -> dict[str, Any]:
        """The report, and how much there is to train on, as plain JSON."""
        counts = {"tokens": int(self.lengths.sum()), "tokens_with_loss": int(self.loss_lengths.sum())}
        lengths = Spread(Counter(self.lengths.tolist())).to_dict()
        return {**self.report, "samples": len(self), **counts, "lengths": lengths}

    @cached_property
    def loss_lengths(self) -> np.ndarray:
        """Tokens with loss of each sample, int64 [samples]; the first of a text is never predicted."""
        learnt = np.add.reduceat(self.labels != NO_LABEL, self.offsets[:-1], dtype=np.int64)
        learnt -= self.labels[self.offsets[:-1]] != NO_LABEL
        return learnt.reshape(-1, self.texts_of_one).sum(1)


def load_dataset(
    data: Data, tokenizer: PreTrainedTokenizerFast, template: Template, objective: str = "sft"
) -> Dataset:
    """The data set of a recipe's `data` section for an objective, encoded now or taken from the cache.

    Processes that want the same one (the ranks of a run) wait for the first to make it. Raises DataError where a
    file cannot be read, where the recipe says to stop at what is found in it, and where nothing is left to train on.
    """
    directory = home() / "datasets" / cache_key(data, tokenizer, template, objective)
    if not directory.is_dir():
        with _alone(directory):
            if not directory.is_dir():
                with new_directory(directory) as work:
                    _encode_into(work, data, tokenizer, template, objective)
    about = json.loads((directory / "about.json").read_text(encoding="utf-8"))
    tokens = {name: np.memmap(directory / f"{name}.bin", np.int32, "r") for name in ("input_ids", "labels")}
    arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    return Dataset(**tokens, **arrays, **about)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Only one process at a time is in here for a directory; the system lets the next one in when one is killed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.parent / f".{directory.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if ranks() == 1:
                messages().print("Waiting for another process that encodes the same data.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks: both make it, and one of the two is kept
            yield
            return
        for left in directory.parent.glob(f".{directory.name}-*"):  # by one that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


def _encode_into(directory: Path, data: Data, tokenizer, template: Template, objective: str) -> None:
    large = [_is_large(source) for source in data.sources]
    # They are started first: meanwhile the encoder is made.
    with Workers() if any(large) else nullcontext() as workers:
        encoder = Encoder.of(tokenizer, template)
        readers = [workers if is_large else None for is_large in large]
        _encode_sources(directory, data, encoder, readers, KINDS_OF[objective])


def _encode_sources(
    directory: Path, data: Data, encoder: Encoder, workers: list[Workers | None], kinds: tuple[type, ...]
) -> None:
    actions = data.defects.model_dump()
    total, files, arrays = (
        DataReport(),
        {},
        {name: [] for name in ("lengths", "places", "source_of", "groups", "good")},
    )
    rows: list[str] = []
    seen = Seen()
    with open(directory / "input_ids.bin", "wb") as ids, open(directory / "labels.bin", "wb") as labels:
        for number, source in enumerate(data.sources):
            report = DataReport()
            reader, records = open_source(source, report, kinds=kinds, actions=actions)
            work = Work(reader, encoder, data.max_length, data.overlong, grouped=data.held_out > 0)
            with progress(f"encoding {Path(source.path).name}", _records(source), "records") as advance:
                for chunk in encode_in_chunks(records, work, workers[number]):
                    report += chunk.report
                    chunk = _without_duplicates(chunk, seen, actions["duplicate"], report)
                    ids.write(chunk.ids.tobytes())
                    labels.write(chunk.labels.tobytes())
                    renumber = np.array(
                        [files.setdefault(file, len(files)) for file in chunk.files], np.int64
                    )
                    if len(chunk.places):
                        chunk.places[:, 0] = renumber[chunk.places[:, 0]]
                    for name in ("lengths", "places", "groups", "good"):
                        arrays[name].append(getattr(chunk, name))
                    arrays["source_of"].append(np.full(len(chunk.places), number, np.int32))
                    rows += chunk.rows
                    advance(chunk.report.read)
            refuse_empty(source, report)
            total += report
    lengths = np.concatenate(arrays.pop("lengths"))
    np.save(directory / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    for name, parts in arrays.items():
        np.save(directory / f"{name}.npy", np.concatenate(parts))
    about = {"rows": rows, "files": list(files), "report": total.to_dict(), "summary": str(total)}
    (directory / "about.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _is_large(source: Source) -> bool:
    """Whether it pays to start other processes, which takes half a second. What is downloaded may be."""
    files = data_files(source.path, source.split)
    return not files or sum(os.path.getsize(file) for file in files if os.path.isfile(file)) > _LARGE


def _records(source: Source) -> int | None:
    """How many there will be, about, where it is quick to know."""
    file = Path(source.path)
    if source.limit or file.suffix != ".jsonl" or not file.is_file():
        return source.limit
    with open(file, "rb") as lines:
        return sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))


def _without_duplicates(chunk: Chunk, seen: Seen, action: str, report: DataReport) -> Chunk:
    """The chunk, in which records that hold nothing new are counted or, by `data.defects.duplicate`, left out."""
    if not len(chunk.contents):
        return chunk
    starts = np.flatnonzero(np.any(np.diff(chunk.places, axis=0, prepend=-1) != 0, axis=1))
    again = np.minimum.reduceat(seen.add(chunk.contents), starts)
    reason = "the same as an earlier record"
    for start in starts[again]:
        file, line, column = chunk.places[start]
        place = Record(line, column, file=chunk.files[file]).place
        if action == "keep":
            report.note(place, reason)
        else:
            report.kept -= 1
            report.reject(place, Reject("duplicate", reason).unless_stopped({"duplicate": action}, place))
    if action == "keep" or not again.any():
        return chunk
    kept = ~np.repeat(again, np.diff([*starts, len(chunk.places)]))
    texts = np.repeat(kept, len(chunk.lengths) // len(kept))
    tokens = np.repeat(texts, chunk.lengths)
    return replace(
        chunk,
        ids=chunk.ids[tokens],
        labels=chunk.labels[tokens],
        lengths=chunk.lengths[texts],
        rows=list(compress(chunk.rows, kept)),
        **{name: getattr(chunk, name)[kept] for name in ("places", "contents", "groups", "good")},
    )
