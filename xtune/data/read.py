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
from xtune.data.report import DataReport, FileFormat
from xtune.errors import DataError, UserError
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
    UserError if `format` names nothing.
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
    """read_data as an iterator: constant memory for JSON Lines. Accounts into `report`, which may hold more."""
    name = os.fspath(path)
    named = None if format == "auto" else _named(format)
    own = DataReport()
    records = islice(read_records(name), limit)
    first = list(islice(records, FIRST_ROWS))
    mapper, why = (named, "as named") if named else _recognise(first, name)
    report.formats.append(FileFormat(name, mapper.name, why))
    for record in chain(first, records):
        pass
