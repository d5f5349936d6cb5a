"""Reads Parquet and Arrow files batch by batch, through pyarrow."""

from __future__ import annotations

import datetime
import decimal
import math
from collections.abc import Iterable, Iterator
from typing import Any

from xtune.data.files.record import Record
from xtune.errors import DataError, UserError

_ROWS = 1000  # of a batch that become Python objects at once


def kind_of(start: bytes) -> str | None:
    """Whether these first bytes are those of a "Parquet" or an "Arrow" file."""
    if start.startswith(b"PAR1"):
        return "Parquet"
    # The file format begins with its name, the stream (which `datasets` writes) with a marker of its own.
    return "Arrow" if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")) else None


def columnar_records(path: str, kind: str, name: str) -> Iterator[Record]:
    """Yield the rows of a Parquet or Arrow file that is called `name`. Raises DataError where it is damaged."""
    number = 0
    try:
        for batch in _batches(path, kind):
            batch.validate(full=True)  # pyarrow reads beyond a buffer's end where offsets are wrong
            for first in range(0, batch.num_rows, _ROWS):
                for row in _rows(batch.slice(first, _ROWS), name):
                    number += 1
                    yield row_record(row, number, name)
    except UserError:
        raise
    except Exception as error:  # pyarrow's, of damaged files, come in many classes
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise DataError(
            f"The {kind} file is damaged behind row {number}: {reason}.",
            where=name,
            fix="copy or write it again",
        ) from None


def row_record(row: dict[str, Any], number: int, name: str) -> Record:
    """A row of pyarrow's or datasets' Python values as one of JSON values, or a fault."""
    try:
        return Record(number, None, {column: _plain(value) for column, value in row.items()}, None, "", name)
    except ValueError as error:
        column = next(column for column, value in row.items() if not _is_plain(value))
        return Record(
            number, None, None, "a cell is no text, number or list", f"{column} holds {error}", name
        )


def _batches(path: str, kind: str) -> Iterable[Any]:
    import pyarrow

    if kind == "Parquet":
        from pyarrow.parquet import ParquetFile

        # Read as it goes: otherwise a whole row group, often the whole file, is held.
        return ParquetFile(path, pre_buffer=False, buffer_size=1 << 20).iter_batches(batch_size=_ROWS)
    source = pyarrow.memory_map(path)
    with open(path, "rb") as file:
        stream = not file.read(6).startswith(b"ARROW1")
    if stream:
        return pyarrow.ipc.open_stream(source)
    reader = pyarrow.ipc.open_file(source)
    return (reader.get_batch(index) for index in range(reader.num_record_batches))


def _rows(batch: Any, name: str) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise DataError("Two columns have one name.", where=name, fix="give every column its own name")
    if not names:
        return iter(())
    columns = [column.to_pylist() for column in batch.columns]
    return (dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True))


def _plain(value: Any) -> Any:
    """A value as JSON has it. Raises ValueError, naming its type, where there is no such."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"{value}")
        return None if math.isnan(value) else value  # NaN is how tables say that a number is missing
    if isinstance(value, dict):
        # Objects of different keys share one struct type with all of their keys, null where a row had none:
        # {"city": ..} and {"days": ..} come back as {"city": .., "days": None}.
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        if value and isinstance(value[0], tuple):  # only a map has tuples, of key and value
            return {str(key): _plain(item) for key, item in value}
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")  # some writers do not mark text as such
        except UnicodeDecodeError:
            raise ValueError(f"{len(value)} bytes that are no text") from None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise ValueError(f"a {type(value).__name__}")


def _is_plain(value: Any) -> bool:
    try:
        _plain(value)
    except ValueError:
        return False
    return True
