"""Reads CSV and TSV: every cell is text, as it stands."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator

from xtune.data.files.record import Record
from xtune.data.files.text import split_lines
from xtune.errors import DataError


def csv_records(pieces: Iterable[str], head: list[str], name: str, default: str) -> Iterator[Record]:
    """Yield the rows of a table whose first row names the columns.

    pieces   the text, cut anywhere
    head     its first lines that are not blank
    default  the delimiter where the first line does not tell: the one that stands there most often is taken

    An empty cell is "". A row with too many or too few cells is a fault. Raises DataError if two columns have
    one name.
    """
    csv.field_size_limit(2**31 - 1)  # a C long, on every system
    delimiter = max([default, ",", "\t", ";"], key=head[0].count)
    lines = (line + "\n" for _, line in split_lines(pieces))
    # strict: a quote in the wrong place is told, where otherwise cells would run together.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if not columns:
                raise DataError(
                    f"The first row names no columns: {_fault(start, error, start, name).detail}.",
                    where=f"{name}:{start}",
                    fix="put the row right; lines end in \\n or \\r\\n",
                ) from None
            yield _fault(start, error, reader.line_num, name)
            continue
        if cells is None:
            return
        if not cells or (len(columns) != 1 and not "".join(cells).strip() and len(cells) == 1):
            continue  # a blank line; in a table of one column it may be an empty cell
        if not columns:
            columns = _columns(cells, f"{name}:{start}")
        elif len(cells) == len(columns):
            yield Record(start, None, dict(zip(columns, cells, strict=True)), None, "", name)
        else:
            fault = f"the row has too {'many' if len(cells) > len(columns) else 'few'} cells"
            yield Record(start, None, None, fault, f"{len(cells)}, and {len(columns)} columns", name)


def _columns(cells: list[str], where: str) -> list[str]:
    # Columns without a name come from indices that pandas writes and from spreadsheets.
    columns = [cell.strip() or f"column {number}" for number, cell in enumerate(cells, start=1)]
    column, count = Counter(columns).most_common(1)[0]
    if count > 1:
        raise DataError(
            f"{count} columns have the name {column!r}.", where=where, fix="give every column its own name"
        )
    return columns


def _fault(start: int, error: csv.Error, last: int, name: str) -> Record:
    said, fault = str(error), "not CSV"
    if "unexpected end" in said:
        said, fault = "a quotation mark is never closed", "the file is cut off here"
    elif "new-line character" in said:
        said = "a carriage return stands alone"
    lost = f"; it goes to line {last}" if last > start else ""
    return Record(start, None, None, fault, said + lost, name)
