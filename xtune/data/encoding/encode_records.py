"""Records to token ids: what is done with one chunk of a source, in this process or in another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np

from xtune.data.encoding.encode import Encoder
from xtune.data.encoding.overlong import Fitting, has_loss
from xtune.data.encoding.pieces import Fixed, Piece
from xtune.data.files import Record
from xtune.data.findings import Findings, Reject
from xtune.data.read import Reader
from xtune.data.report import DataReport
from xtune.errors import DataError
from xtune.messages import AnySample, Document, Labelled, Pair, Prompt, Sample


@dataclass(frozen=True)
class Work:
    """All that records are encoded by. It can be sent to another process.

    grouped   whether to tell which samples may not be parted by a held-out split
    """

    reader: Reader
    encoder: Encoder
    max_length: int
    overlong: str
    grouped: bool = False

    @cached_property
    def fitting(self) -> Fitting:
        """Of the length of samples."""
        return Fitting(self.encoder, self.max_length, self.overlong)


@dataclass
class Chunk:
    """What was made of some records, in order. A sample is one text; of a Pair, two: chosen, rejected.

    ids, labels   int32 [tokens], the texts one after another
    lengths       int64 [texts]: tokens of each
    places        int64 [samples, 3]: number of the file in `files`, line, column (0 for none) of its record
    contents      uint64 [samples]: a hash of the ids
    groups        uint64 [samples]: a hash of what is asked, the same for duplicates
    good          bool [samples]: of Labelled, whether the answer is
    rows          of Prompt, for each sample: messages, answer and columns, as JSON
    """

    ids: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    places: np.ndarray
    contents: np.ndarray
    groups: np.ndarray
    good: np.ndarray
    rows: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    report: DataReport = field(default_factory=DataReport)


def encode_records(records: Sequence[Record], work: Work) -> Chunk:
    """The samples of the records as ids. Raises DataError and UsageError as Reader and Encoder do."""
    report, mapped, texts = DataReport(), [], []
    for record in records:
        try:
            samples, found = work.reader.samples(record)
            pieces = [_pieces(sample, work, found) for sample in samples]
        except Reject as fault:
            report.reject(record.place, fault.unless_stopped(work.reader.actions, record.place))
            continue
        for sample, parts in zip(samples, pieces, strict=True):
            mapped.append((record, sample, found, len(parts)))
            texts += parts
    return _collect(mapped, work.encoder.encode_bytes(texts), work, report)


def _collect(mapped, texts: list[Fixed], work: Work, report: DataReport) -> Chunk:
    kept: list[Fixed] = []
    places, contents, groups, good, rows, files = [], [], [], [], [], {}
    outcome: dict[str, tuple[Findings, Reject | None]] = {}
    position, most, words = 0, 4 * work.max_length, work.encoder.words
    for record, sample, found, count in mapped:
        encoded = texts[position : position + count]
        position += count
        fault = None
        try:
            if words.lossy:
                for text in _texts(sample):
                    words.alphabet.note_unknown(text, found)
            learnt = not isinstance(sample, Prompt)
            if any(len(one.ids) > most or (learnt and not has_loss(one)) for one in encoded):
                encoded = work.fitting.fit(sample, encoded, found)
        except Reject as error:
            encoded, fault = [], error.unless_stopped(work.reader.actions, record.place)
        # A record with several samples is kept where one of them is.
        before = outcome.get(sample.source)
        outcome[sample.source] = (found, fault if before is None or before[1] else None)
        kept += encoded
        place = files.setdefault(record.file, len(files)), record.line, record.column or 0
        is_good = not isinstance(sample, Labelled) or sample.good
        texts_of_one = 2 if isinstance(sample, Pair) else 1
        made = [encoded[at : at + texts_of_one] for at in range(0, len(encoded), texts_of_one)]
        places += [place] * len(made)
        contents += [_hash(b"\0".join(text.ids for text in one) + bytes([is_good])) for one in made]
        groups += [_group(sample) if work.grouped else 0] * len(made)
        good += [is_good] * len(made)
        if isinstance(sample, Prompt):
            rows += [_row(sample)] * len(made)
    for place, (found, fault) in outcome.items():
        if fault:
            report.reject(place, fault)
        else:
            report.keep(place, found)
    return Chunk(
        ids=np.frombuffer(b"".join(one.ids for one in kept), np.int32),
        labels=np.frombuffer(b"".join(one.labels for one in kept), np.int32),
        lengths=np.fromiter((len(one.ids) // 4 for one in kept), np.int64, len(kept)),
        places=np.array(places, dtype=np.int64).reshape(-1, 3),
        contents=np.array(contents, dtype=np.uint64),
        groups=np.array(groups, dtype=np.uint64),
        good=np.array(good, dtype=bool),
        rows=rows,
        files=list(files),
        report=report,
    )


def _pieces(sample: AnySample, work: Work, found: Findings) -> list[list[Piece | Fixed]]:
    try:
        return work.encoder.pieces(sample)
    except DataError as error:
        fault = Reject("template", error.what)
    actions = work.reader.actions
    if (
        actions["template"] == "repair"
        and isinstance(sample, Sample)
        and any(turn.reasoning for turn in sample.messages)
    ):
        found.repairs["thinking left out: the chat template has no place for it"] = None
        messages = tuple(replace(turn, reasoning=None) for turn in sample.messages)
        return _pieces(replace(sample, messages=messages), work, found)
    raise fault


def _row(sample: Prompt) -> str:
    messages = [
        {key: value for key, value in asdict(turn).items() if key == "content" or (value and key != "loss")}
        for turn in sample.messages
    ]
    row = {"messages": messages, "answer": sample.answer, "columns": sample.columns}
    return json.dumps(row, ensure_ascii=False, default=str)


def _texts(sample: AnySample) -> list[str]:
    if isinstance(sample, Document):
        return [sample.text]
    if isinstance(sample, Pair):
        return [turn.content for turn in (*sample.prompt, *sample.chosen, *sample.rejected)]
    return [turn.content for turn in sample.messages]


def _group(sample: AnySample) -> int:
    """A hash of what is asked (of a document: what it says), whatever its case and white space."""
    if isinstance(sample, Document):
        asked = sample.text
    else:
        messages = sample.prompt if isinstance(sample, Pair) else sample.messages
        asked = "\0".join(turn.content for turn in messages if turn.role == "user")
    return _hash(" ".join(asked.casefold().split()).encode("utf-8", "surrogatepass"))


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
