"""What a mapper is, and what mappers share for reading a row's columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xtune.data.files import Record
from xtune.data.findings import Findings, Reject
from xtune.messages import AnySample, Sample
from xtune.strict_json import describe, read_values

# Columns of preference data. To learn from such rows as if every answer were a good one would be wrong, so no
# mapper for conversations takes them unless the user names it.
CHOSEN_COLUMNS = ("chosen", "chosen_messages", "response_chosen", "chosen_response")
REJECTED_COLUMNS = ("rejected", "rejected_messages", "response_rejected", "rejected_response")
LABEL_COLUMNS = ("label", "kto_tag")
_LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
_ANSWER_COLUMNS, _LABEL_COLUMNS = frozenset(CHOSEN_COLUMNS + REJECTED_COLUMNS), frozenset(LABEL_COLUMNS)


@dataclass(frozen=True)
class Mapper:
    """One format of rows.

    name     what `format` names it
    columns  the columns it reads, for people
    fits     whether a row (any JSON value) is in this format, told from its columns; of the formats of one kind
             only one should fit a row
    map      the row as a sample, or several, not yet checked and without its source; repairs go into Findings.
             Raises Reject, whatever the row holds
    kind     what its samples are
    gather   makes the records of the format out of those of the file, where one needs several rows
    aliases  other names for it
    system   prompt for samples that have none, where the recipe gives no other
    """

    name: str
    columns: str
    fits: Callable[[Any], bool]
    map: Callable[[Any, Findings], AnySample | Iterable[AnySample]]
    kind: type = Sample
    gather: Callable[[Iterator[Record]], Iterator[Record]] | None = None
    aliases: tuple[str, ...] = ()
    system: str = ""


def never(row: Any) -> bool:
    """`fits` of a format that must be named, because its columns are also those of another."""
    return False


def columns_of(row: Any, *needed: str) -> dict[str, Any]:
    """The row, where it is an object that has these columns. Raises Reject."""
    if not isinstance(row, dict):
        raise Reject("wrong_columns", f"the row is {kind(row)}, not an object")
    for column in needed:
        if column not in row:
            raise Reject("wrong_columns", f'no column "{column}"')
    return row


def is_preference(row: dict[str, Any]) -> bool:
    """Whether a row says which answer is better (DPO, reward) or whether an answer is good (KTO)."""
    return not _ANSWER_COLUMNS.isdisjoint(row) or label(row) is not None


def label(row: dict[str, Any]) -> bool | None:
    """Whether a row says of its answer that it is good or bad: true, 1 or "true"; None if it says neither."""
    if _LABEL_COLUMNS.isdisjoint(row):
        return None
    cells = (row[column] for column in LABEL_COLUMNS if isinstance(row.get(column), str | int | float))
    names = (str(cell).strip().lower() for cell in cells)
    return next((_LABELS[name] for name in names if name in _LABELS), None)


def text(value: Any, column: str, found: Findings) -> str:
    """The text in a cell: "" for null, a number as written. Raises Reject."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        found.repair("not_text", f"number in {column} taken as text")
        return str(value)
    raise Reject("wrong_type", f"{column} is {kind(value)}, not text")


def kind(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    names = {dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), "a number")


def inner_json(value: str, column: str) -> Any:
    """Parse JSON that stands as text inside a row. Raises Reject with the position inside that text."""
    try:
        values = read_values(value)
    except (ValueError, RecursionError) as error:
        raise Reject("broken_json", f"{column} is not JSON", describe(error)) from None
    if len(values) != 1:
        raise Reject("broken_json", f"{column} is not JSON", f"{len(values)} values instead of one")
    [(parsed, fault)] = values
    if fault:
        raise Reject("broken_json", f"{column} is not JSON: {fault[0]}", fault[1])
    return parsed
