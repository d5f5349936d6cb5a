"""What every kind of file is read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Record:
    """One row of a file, or the fault that stands in its place.

    line    1-based line on which the record starts; in files without lines (Parquet, Arrow, the hub) its row
    column  1-based column where it starts, if another record starts before it on the same line; else None
    row     any JSON value; None where there is a fault
    fault   why there is no row, in the same words for the same kind of fault, so that they can be counted
    detail  what is particular to this one, such as the column of the fault
    file    the path as given, or that of the shard inside the given directory
    """

    line: int
    column: int | None = None
    row: Any = None
    fault: str | None = None
    detail: str = ""
    file: str = ""

    @property
    def place(self) -> str:
        """file:line, and :column where another record starts before it on that line."""
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column else "")
