"""From a data file to samples: find its format, map each row, check it, and account for every record."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from xtune.data.check import check
from xtune.data.files import Record, read_records
from xtune.data.findings import Findings, Reject, default_actions
from xtune.data.mappers import MAPPERS, Mapper
from xtune.data.recognise import KINDS, columns, find_mapper, fitting, other_kind, recognise
from xtune.data.report import DataReport, FileFormat
from xtune.errors import DataError
from xtune.messages import AnySample, Document, Message, Pair, Prompt, under_condition

if TYPE_CHECKING:
    from xtune.recipe.data_schema import Source

# Rows that decide the format where none is named.
FIRST_ROWS = 100
_MEDIA_COLUMNS = frozenset(["images", "image", "audios", "audio", "videos", "video"])


@dataclass(frozen=True)
class Reader:
    """How the records of a source become samples. It can be sent to another process.

    format   name of the mapper, or "file.py:function"
    named    whether the user named it; else rows of other formats of the same kind are read as those
    actions  defect to action, as in the recipe's `data.defects`
    system, condition   as in the recipe's Source
    kinds    what samples may be; None: anything
    """

    format: str
    named: bool
    actions: Mapping[str, str]
    system: str | None = None
    condition: str | None = None
    kinds: tuple[type, ...] | None = None

    def samples(self, record: Record) -> tuple[list[AnySample], Findings]:
        """The samples of a record, checked, and what was found in them. Of several some may be left out.

        Raises Reject where it cannot be used, DataError where the recipe says to stop at such a record.
        """
        found = Findings(self.actions)
        try:
            samples = self._mapped(record, found)
            if len(samples) == 1:
                return [check(_placed(samples[0], record.place), found)], found
            return self._several(samples, record, found), found
        except RecursionError:
            raise Reject("wrong_type", "nested too deeply") from None
        except Reject as fault:
            raise fault.unless_stopped(self.actions, record.place) from None

    def _several(self, samples: Sequence[AnySample], record: Record, found: Findings) -> list[AnySample]:
        kept, faults = [], []
        for sample in samples:
            try:
                kept.append(check(_placed(sample, record.place), found))
            except Reject as fault:
                faults.append(fault.unless_stopped(self.actions, record.place))
        if not kept:
            raise faults[0] if faults else Reject("no_answer", "the row holds no sample")
        for fault in faults:
            found.repairs[f"one of several samples in a row left out: {fault.reason}"] = None
        return kept

    def _mapped(self, record: Record, found: Findings) -> Sequence[AnySample]:
        if record.fault:
            raise Reject("broken_record", record.fault, record.detail)
        row, mapper = record.row, find_mapper(self.format)
        if not self.named and not mapper.fits(row):
            mapper = _other_mapper(row, mapper, found)
        if isinstance(row, dict) and not _MEDIA_COLUMNS.isdisjoint(row):
            for name in row:
                if name in _MEDIA_COLUMNS and row[name]:
                    raise Reject("media", f"the row has {name}: only text can be trained on")
        mapped = mapper.map(row, found)
        samples = mapped if isinstance(mapped, list | tuple) else [mapped]
        if self.kinds and mapper.kind not in KINDS:  # a function of the user's gives anything
            for sample in samples:
                if type(sample) not in self.kinds:
                    wanted = " or ".join(KINDS[kind] for kind in self.kinds)
                    raise Reject("wrong_type", f"{KINDS[type(sample)]} where {wanted} are wanted")
        system = self.system or mapper.system
        if system:
            samples = [_with_system(sample, system) for sample in samples]
        return [_under_condition(sample, self.condition) for sample in samples] if self.condition else samples


def _other_mapper(row: Any, mapper: Mapper, found: Findings) -> Mapper:
    others = fitting(row, [other for other in MAPPERS if other.kind is mapper.kind])
    if len(others) != 1 or others[0].gather:
        raise Reject("wrong_columns", f"not a row of the format {mapper.name}", columns([row]))
    found.notes[f"of another format than most rows: {others[0].name}"] = None
    return others[0]


def _placed(sample: AnySample, source: str) -> AnySample:
    # dataclasses.replace takes three times as long, which is felt here.
    return type(sample)(**{**vars(sample), "source": source})


def _with_system(sample: AnySample, prompt: str) -> AnySample:
    """The sample with a system prompt, unless it has one."""
    name = "prompt" if isinstance(sample, Pair) else "messages"
    turns = getattr(sample, name, None)  # a document has none
    if turns is None or any(turn.role == "system" for turn in turns):
        return sample
    return replace(sample, **{name: (Message("system", prompt), *turns)})


def _under_condition(sample: AnySample, condition: str) -> AnySample:
    if isinstance(sample, Prompt):  # it says what judges the answers
        return sample
    name = "prompt" if isinstance(sample, Pair) else "messages"
    turns = getattr(sample, name, None)
    return replace(sample, **{name: under_condition(turns, condition)}) if turns else sample


def open_source(
    source: Source,
    report: DataReport,
    *,
    kinds: Sequence[type] | None = None,
    actions: Mapping[str, str] | None = None,
) -> tuple[Reader, Iterator[Record]]:
    """How to read a source, and its records, within its limit; the format goes into `report`.

    kinds   what the samples may be: Sample, Pair ...; None: anything. Documents may be where their format is named

    Raises DataError where the file cannot be read, its format not be told or of another kind; UsageError where
    `source.format` names nothing.
    """
    records = read_records(source.path, split=source.split, encoding=source.encoding)
    if source.format != "auto":
        find_mapper.cache_clear()  # a function may have been edited since
        mapper, why = find_mapper(source.format), "as named"
        first: list[Record] = []
        kinds = (*kinds, Document) if kinds else None
        if kinds and mapper.kind in KINDS and mapper.kind not in kinds:
            raise other_kind(mapper, kinds, source.path)
    else:
        first = list(islice(records, FIRST_ROWS))
        mapper, why = recognise(first, source.path, kinds)
    report.formats.append(FileFormat(source.path, mapper.name, why))
    records = chain(first, records)
    if mapper.gather:
        records = mapper.gather(records)
    # What was gathered has not the columns that the format is told by.
    named = source.format != "auto" or mapper.gather is not None
    reader = Reader(
        mapper.name,
        named,
        actions or default_actions(),
        source.system,
        source.condition,
        tuple(kinds) if kinds else None,
    )
    return reader, islice(records, source.limit)


def iterate_mapped(
    source: Source,
    report: DataReport,
    *,
    kinds: Sequence[type] | None = None,
    actions: Mapping[str, str] | None = None,
) -> Iterator[tuple[Record, list[AnySample]]]:
    """The records of a source that can be used, each with its samples, accounting for all of them in `report`.

    In constant memory where the kind of file allows it. `report` must be a fresh one for each source. Raises as
    open_source does, and DataError where no record can be used.
    """
    reader, records = open_source(source, report, kinds=kinds, actions=actions)
    for record in records:
        try:
            samples, found = reader.samples(record)
        except Reject as fault:
            report.reject(record.place, fault)
            continue
        report.keep(record.place, found)
        yield record, samples
    refuse_empty(source, report)


def refuse_empty(source: Source, report: DataReport) -> None:
    """Raises DataError, with the reasons, where no record of a source could be used."""
    if report.kept:
        return
    reasons = [
        f"{tally.count} x {reason}: {', '.join(tally.places)}" for reason, tally in report.rejections.items()
    ]
    (read_as,) = report.formats
    raise DataError(
        "\n  ".join(
            [
                f"None of the {report.read} records can be used (format {read_as.format}, {read_as.why}):",
                *reasons,
            ]
        ),
        where=source.path,
        fix="put the records right" + (", or name another format" if source.format == "auto" else ""),
    )


def read_data(
    path: str | os.PathLike[str], format: str = "auto", limit: int | None = None
) -> tuple[list[AnySample], DataReport]:
    """Read a file, or a directory of files, into samples.

    path    the file; its kind is told by its content
    format  a mapper's name, "file.py:function" of your own, or "auto": the format that most of the first rows fit
    limit   read only the first records

    Raises DataError if the file cannot be read, its format is not known or none of its records can be used;
    UsageError if `format` names nothing.
    """
    from xtune.recipe.data_schema import Source

    report = DataReport()
    source = Source(path=os.fspath(path), format=format, limit=limit)
    return [sample for _, samples in iterate_mapped(source, report) for sample in samples], report
