"""From a data file to samples: find its format, map each row, check it, and account for every record."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from xtune.data.check import check
from xtune.data.mappers import MAPPERS, Mapped, Mapper, Reject
from xtune.data.mappers.mapper import is_preference, kind
from xtune.data.records import Record, read_records
from xtune.data.report import PLACES, DataReport, FileFormat
from xtune.errors import DataError, UsageError
from xtune.messages import Sample
from xtune.recipe.schema import Source

# Rows that decide the format where none is named.
FIRST_ROWS = 100
_MEDIA_COLUMNS = ("images", "image", "audios", "audio", "videos", "video")


def read_data(
    path: str | os.PathLike[str], format: str = "auto", limit: int | None = None
) -> tuple[list[Sample], DataReport]:
    """Read a .json or .jsonl file of conversations into samples.

    path    the file; JSON Lines or a JSON list is told by its content
    format  a mapper's name, or "auto": the format that most of the first rows fit
    limit   read only the first records

    Raises DataError if the file cannot be read, its format is not known or none of its records can be used;
    UsageError if `format` names nothing.
    """
    report = DataReport()
    return list(iterate_samples(path, format, limit, report)), report


def read_source(source: Source, report: DataReport) -> Iterator[Sample]:
    """Yield the samples of a recipe's source, with its format and limit, accounting into `report`.

    Raises as read_data does, while iterating.
    """
    return iterate_samples(source.path, source.format, source.limit, report)


def iterate_samples(
    path: str | os.PathLike[str], format: str, limit: int | None, report: DataReport
) -> Iterator[Sample]:
    """read_data as an iterator, in constant memory for JSON Lines.

    Accounts into `report`: a fresh one for each file, so that an error names the reasons of this file; add
    them up afterwards.
    """
    name = os.fspath(path)
    named = None if format == "auto" else _mapper(format)
    records = islice(read_records(name), limit)
    first = list(islice(records, FIRST_ROWS))
    mapper, why = (named, "as named") if named else _recognise(first, name)
    report.formats.append(FileFormat(name, mapper.name, why))
    kept = 0
    for record in chain(first, records):
        report.read += 1
        source = _source(name, record)
        try:
            mapped = _map(record, mapper, named is not None)
        except Reject as fault:
            report.reject(fault.reason, source, fault.detail)
            continue
        for repair in mapped.repairs:
            report.repair(repair, source)
        kept += 1
        yield Sample(mapped.messages, mapped.tools, source)
    if not kept:
        reasons = [
            f"{tally.count} x {reason}: {', '.join(tally.places)}"
            for reason, tally in report.rejections.items()
        ]
        raise DataError(
            "\n  ".join(
                [f"None of the {report.read} records can be used (format {mapper.name}, {why}):", *reasons]
            ),
            where=name,
            fix="put the records right" + ("" if named else ", or name another format"),
        )


def _map(record: Record, mapper: Mapper, named: bool) -> Mapped:
    if record.fault:
        raise Reject(record.fault, record.detail)
    row = record.row
    if not named and not mapper.fits(row):
        raise Reject(f"not a row of the format {mapper.name}", _columns([row]))
    if isinstance(row, dict) and (media := next((name for name in _MEDIA_COLUMNS if row.get(name)), None)):
        raise Reject(f"the row has {media}: only text can be trained on")
    try:
        return check(mapper.map(row))
    except RecursionError:
        raise Reject("nested too deeply") from None


def _source(name: str, record: Record) -> str:
    """file:line, and :column where another record starts before it on that line, so that each has its own."""
    return f"{name}:{record.line}" + (f":{record.column}" if record.column else "")


def _mapper(format: str) -> Mapper:
    mappers = {mapper.name: mapper for mapper in MAPPERS}
    if format in mappers:
        return mappers[format]
    near = difflib.get_close_matches(format.lower(), mappers, n=1)
    raise UsageError(
        f'There is no format "{format}"' + (f'; did you mean "{near[0]}"?' if near else "."),
        fix=f"name one of {', '.join(mappers)}, or auto",
    )


def _recognise(first: list[Record], name: str) -> tuple[Mapper, str]:
    """The mapper that most of the first rows fit, and the reason in words. Raises DataError if none does."""
    rows = [record.row for record in first if not record.fault]
    if not rows:
        faults = [f"{_source(name, record)}: {record.fault} ({record.detail})" for record in first[:PLACES]]
        raise DataError(
            "\n  ".join(["No record can be read:", *faults]), where=name, fix="put the file right"
        )
    fitting = [sum(mapper.fits(row) for row in rows) for mapper in MAPPERS]
    most = max(fitting)
    if most:
        mapper = MAPPERS[fitting.index(most)]
        return mapper, f"{most} of the first {len(rows)} rows have {mapper.columns}"
    known = "; ".join(f"{mapper.name} ({mapper.columns})" for mapper in MAPPERS)
    if any(isinstance(row, dict) and is_preference(row) for row in rows):
        what = "These rows say which answers are better, not what to write: sft cannot learn from them."
        fix = "give sft a file of conversations, all of them worth learning"
    else:
        what = "No known format fits these rows."
        fix = "rename the columns to those of a known format"
    raise DataError(
        f"{what}\n  columns seen: {_columns(rows)}\n  formats known: {known}",
        where=name,
        fix=fix,
    )


def _columns(rows: list[Any]) -> str:
    """The columns of rows for people, with those one level below: "messages[role, content], label"."""
    columns: dict[str, dict[str, None]] = {}
    for row in rows:
        if not isinstance(row, dict):
            columns.setdefault(f"({kind(row)})", {})
            continue
        for column, value in row.items():
            inner = value[0] if isinstance(value, list) and value else value
            columns.setdefault(column, {}).update(dict.fromkeys(inner if isinstance(inner, dict) else ()))
    shown = [f"{name}[{_some(list(inner))}]" if inner else name for name, inner in columns.items()]
    return _some(shown)


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join([name[:200] for name in names[:most]] + (["..."] if len(names) > most else []))
