"""What a data set consists of, source by source: records, tokens, lengths, duplicates, languages; all that is wrong.

Streams: but for 8 bytes a record, which tell duplicates, memory does not grow with the data.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from xtune.data.clean.row import make_row, normalised
from xtune.data.encoding.encode import NO_LABEL, Encoder
from xtune.data.encoding.pieces import Fixed, Piece
from xtune.data.files import Record
from xtune.data.findings import Reject
from xtune.data.language import detect_language
from xtune.data.read import Reader, open_source
from xtune.data.recognise import KINDS
from xtune.data.report import PLACES, DataReport
from xtune.data.spread import Spread
from xtune.errors import DataError, UserError
from xtune.messages import AnySample, Document, Labelled, Pair
from xtune.recipe.schema import Data, Source
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHUNK = 256  # samples encoded at once: enough for the tokenizer's speed, little to hold in memory
# To tell a language takes as long as all else: so many of the first records are looked at, and of those after them
# one of so many, which counts for all of these.
_LANGUAGE_FIRST, _LANGUAGE_EVERY = 256, 4
# Of a question and of its answer; enough to tell a language.
_LANGUAGE_CHARACTERS = 100


@dataclass(frozen=True)
class SourceCheck:
    """What a source holds.

    kind        what its samples are, for people: "conversations"; "" where that could not be found out
    report      what became of its records
    samples     those of the records kept; a record may hold several
    good        how many of labelled answers are good ones
    tokens      of all texts that the model reads: a pair is two, and some templates train every turn for itself
    learnt      tokens with loss
    lengths     tokens of a sample, of the longest of its texts
    turns       what the user says, in each sample; of a document none
    longest     (tokens, place) of the longest samples
    overlong    samples longer than max_length; they are not among the report's rejected ones
    duplicates  records that say the same as an earlier one, but for white space, case and Unicode form
    repeated    (place, place of the first) of the first duplicates
    languages   language to share of the records, the most frequent first; estimated where there are many records
    error       what ended the reading before the end of the source
    """

    source: Source
    kind: str
    report: DataReport
    samples: int
    good: int
    tokens: int
    learnt: int
    lengths: Spread
    turns: Spread
    longest: list[tuple[int, str]]
    overlong: int
    duplicates: int
    repeated: list[tuple[str, str]]
    languages: dict[str, float]
    error: UserError | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        error = self.error
        return {
            "path": self.source.path,
            "kind": self.kind,
            "records": self.report.read,
            **self.report.to_dict(),
            "samples": self.samples,
            "good": self.good if self.kind == KINDS[Labelled] else None,
            "tokens": self.tokens,
            "tokens_with_loss": self.learnt,
            "lengths": self.lengths.to_dict(),
            "turns": self.turns.to_dict(),
            "longest": [{"tokens": tokens, "place": place} for tokens, place in self.longest],
            "over_max_length": self.overlong,
            "duplicates": self.duplicates,
            "duplicate_places": [{"place": place, "first": first} for place, first in self.repeated],
            "languages": self.languages,
            "error": error and {"what": error.what, "where": error.where, "fix": error.fix},
        }


def check_sources(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    data: Data,
    *,
    kinds: Sequence[type] | None = None,
    progress: Callable[[Source, int], None] | None = None,
    rejects: Callable[[Record, Reject], None] | None = None,
) -> list[SourceCheck]:
    """Read all sources, as `data` says, and count what is in them. What cannot be read is told in `error`.

    kinds     what the samples may be, where the format has to be found out; None: anything
    progress  is told the number of records read, again and again
    rejects   is given every record that cannot be used

    Raises UsageError where a format is unknown, or the tokenizer lacks a token that the template writes.
    """
    return [
        _check_source(source, _Counts(Encoder.of(tokenizer, template), data), kinds, progress, rejects)
        for source in sources
    ]


def _check_source(source: Source, counts: _Counts, kinds, progress, rejects) -> SourceCheck:
    report, error = DataReport(), None
    try:
        reader, records = open_source(source, report, kinds=kinds, actions=counts.actions)
        for record in records:
            counts.read(record, reader, report, rejects)
            if progress and report.read % CHUNK == 0:
                progress(source, report.read)
    except DataError as fault:
        error = fault
    counts.encode()
    if not (report.kept or error):
        error = DataError(
            f"None of the {report.read} records can be used.",
            where=source.path,
            fix="put them right, or name another format or template",
        )
    duplicates, repeated = _duplicates(counts.hashes)
    return SourceCheck(
        source=source,
        kind=KINDS[counts.kind] if counts.kind else "",
        report=report,
        samples=counts.samples,
        good=counts.good,
        tokens=counts.tokens,
        learnt=counts.learnt,
        lengths=Spread(counts.lengths),
        turns=Spread(counts.turns),
        longest=sorted(counts.longest, reverse=True),
        overlong=sum(number for length, number in counts.lengths.items() if length > counts.max_length),
        duplicates=duplicates,
        repeated=_with_places(repeated, source, report),
        languages={name: part / counts.languages.total() for name, part in counts.languages.most_common()},
        error=error,
    )


def _with_places(pairs: list[tuple[int, int]], source: Source, report: DataReport) -> list[tuple[str, str]]:
    """Places of records by their numbers. These were not kept: so far the source is read again, which is quick."""
    if not pairs:
        return []
    wanted, places = {index for pair in pairs for index in pair}, {}
    known = source.model_copy(update={"format": report.formats[0].format})
    with suppress(DataError):  # where the file was changed meanwhile
        _, records = open_source(known, DataReport())
        for index, record in enumerate(islice(records, max(wanted) + 1)):
            if index in wanted:
                places[index] = record.place
    return [(places[later], places[first]) for later, first in pairs if later in places and first in places]


class _Counts:
    """What is counted while a source is read."""

    def __init__(self, encoder: Encoder, data: Data):
        self.encoder, self.max_length = encoder, data.max_length
        self.actions = data.defects.model_dump()
        self.kind: type | None = None
        self.samples = self.good = self.tokens = self.learnt = 0
        self.lengths: Counter[int] = Counter()
        self.turns: Counter[int] = Counter()
        self.languages: Counter[str] = Counter()
        self.longest: list[tuple[int, str]] = []
        self.hashes = array("Q")  # of each record; 0 for one that is rejected
        self._waiting: list[
            tuple[str, list[list[Piece | Fixed]]]
        ] = []  # place and texts of samples to be encoded

    def read(self, record: Record, reader: Reader, report: DataReport, rejects) -> None:
        """Count a record."""
        try:
            samples, found = reader.samples(record)
            texts = [self._pieces(sample) for sample in samples]
            row = make_row(record.place, record.row, samples)
            self.encoder.words.alphabet.note_unknown(row.whole, found)
        except Reject as fault:
            report.reject(record.place, fault.unless_stopped(self.actions, record.place))
            self.hashes.append(0)
            if rejects:
                rejects(record, fault)
            return
        report.keep(record.place, found)
        digest = hashlib.blake2b(normalised(row.whole).encode("utf-8", "replace"), digest_size=8).digest()
        self.hashes.append(int.from_bytes(digest, "little") or 1)
        if (all_of := report.kept <= _LANGUAGE_FIRST) or self.hashes[-1] % _LANGUAGE_EVERY == 0:
            start = [(part or "")[:_LANGUAGE_CHARACTERS] for part in (row.question, row.answer)]
            self.languages[detect_language("\n".join(start))] += 1 if all_of else _LANGUAGE_EVERY
        for sample in samples:
            self.kind = type(sample)
            self.samples += 1
            self.turns[_turns(sample)] += 1
            self.good += isinstance(sample, Labelled) and sample.good
        self._waiting += [(record.place, pieces) for pieces in texts]
        if len(self._waiting) >= CHUNK:
            self.encode()

    def _pieces(self, sample: AnySample) -> list[list[Piece | Fixed]]:
        try:
            return self.encoder.pieces(sample)
        except DataError as error:
            raise Reject("template", error.what) from None

    def encode(self) -> None:
        """Count the tokens of the samples read since the last time."""
        texts = [pieces for _, parts in self._waiting for pieces in parts]
        encoded = self.encoder.encode_bytes(texts)
        labels = np.frombuffer(b"".join(one.labels for one in encoded), np.int32)
        self.tokens += len(labels)
        self.learnt += int(np.count_nonzero(labels != NO_LABEL))
        of_text = iter([len(one.ids) // 4 for one in encoded])
        for place, parts in self._waiting:
            length = max(islice(of_text, len(parts)))
            self.lengths[length] += 1
            heapq.heappush(self.longest, (length, place))
            if len(self.longest) > PLACES:
                heapq.heappop(self.longest)
        self._waiting = []


def _turns(sample: AnySample) -> int:
    if isinstance(sample, Document):
        return 0
    messages = sample.prompt if isinstance(sample, Pair) else sample.messages
    return sum(message.role == "user" for message in messages)


def _duplicates(hashes: array) -> tuple[int, list[tuple[int, int]]]:
    """How many hashes are the same as an earlier one, and (index, index of the first) of the first; 0 is none."""
    values = np.frombuffer(hashes, dtype=np.uint64)
    if not len(values):
        return 0, []
    order = np.argsort(values, kind="stable")
    new = np.concatenate([[True], values[order[1:]] != values[order[:-1]]])
    starts = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    again = np.flatnonzero(~new & (values[order] != 0))
    again = again[np.argsort(order[again])]
    first = again[:PLACES]
    return len(again), list(zip(order[first].tolist(), starts[first].tolist(), strict=True))
