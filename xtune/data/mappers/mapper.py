"""What a mapper is, and what mappers share for reading a row's columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xtune.data.strict_json import Decoder, describe
from xtune.messages import Message

# Columns of preference data. To learn from such rows as if every answer were a good one would be wrong, so no
# mapper for conversations takes them unless the user names it.
PREFERENCE_COLUMNS = frozenset(
    [
        "chosen",
        "rejected",
        "chosen_messages",
        "rejected_messages",
        "rejected_response",
        "response_chosen",
        "response_rejected",
    ]
)


class Reject(Exception):
    """A row cannot be used. `reason` is the same for rows with the same fault, `detail` is this row's own."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Mapped:
    """A row as a conversation: messages in order, tools in OpenAI's form, and what had to be repaired."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapper:
    """One format of rows.

    name     what `format` names it
    columns  the columns it reads, for people
    fits     whether a row (any JSON value) is in this format, told from its columns
    map      the row as a conversation, not yet checked; raises Reject, whatever the row holds
    """

    name: str
    columns: str
    fits: Callable[[Any], bool]
    map: Callable[[Any], Mapped]


def is_preference(row: dict[str, Any]) -> bool:
    """Whether a row says which answer is better (DPO, reward) or whether an answer is good (KTO)."""
    label = str(row.get("label")).lower()
    return not PREFERENCE_COLUMNS.isdisjoint(row) or label in ("true", "false", "0", "1")


def text(value: Any, column: str, repairs: list[str]) -> str:
    """The text in a cell: "" for null, a number as written, with a note in `repairs`. Raises Reject."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        repairs.append(f"number in {column} taken as text")
        return str(value)
    raise Reject(f"{column} is {kind(value)}, not text")


def kind(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    names = {dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), "a number")


def inner_json(value: str, column: str) -> Any:
    """Parse JSON that stands as text inside a row. Raises Reject with the position inside that text."""
    try:
        values = Decoder(value).all_values()
    except (ValueError, RecursionError) as error:
        raise Reject(f"{column} is not JSON", describe(error)) from None
    if len(values) != 1:
        raise Reject(f"{column} is not JSON", f"{len(values)} values instead of one")
    [(_, parsed, fault)] = values
    if fault:
        raise Reject(f"{column} is not JSON: {fault[0]}", fault[1])
    return parsed
