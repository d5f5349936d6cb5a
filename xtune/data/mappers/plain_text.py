"""Plain text, to go on with training as the model was first trained: every token is learnt.

{"text": str}, or under another name, see _COLUMNS; an answer without a question (ms-swift: {"response": str}); or
XTuner's {"messages": [{"role": "pretrain", "content": str}, ...]}, each a text of its own. Kept as it is, white
space included.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.exchange import TURN_COLUMNS, question_column
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, kind, text
from xtune.messages import Document

_COLUMNS = ("text", "content", "raw_content", "toy_text")
_ANSWER_COLUMNS = ("response", "completion")
_ROLE = "pretrain"


def _fits(row: Any) -> bool:
    return isinstance(row, dict) and (_is_pretrain(row.get("messages")) or _column(row) is not None)


def _column(row: dict[str, Any]) -> str | None:
    # "role" makes it a turn of a conversation, "summary" a question about it.
    if row.keys().isdisjoint(("role", "summary")):
        for column in _COLUMNS:
            if column in row:
                return column
    alone = row.keys().isdisjoint(TURN_COLUMNS) and question_column(row) is None and not is_preference(row)
    return next((column for column in _ANSWER_COLUMNS if alone and column in row), None)


def _is_pretrain(turns: Any) -> bool:
    return (
        isinstance(turns, list)
        and bool(turns)
        and isinstance(turns[0], dict)
        and turns[0].get("role") == _ROLE
    )


def _map(row: Any, found: Findings) -> list[Document]:
    row = columns_of(row)
    if _is_pretrain(row.get("messages")):
        return [Document(_content(turn, found)) for turn in row["messages"]]
    column = _column(row)
    if column is None:
        raise Reject("wrong_columns", "no column of plain text", ", ".join(row)[:200])
    return [Document(text(row[column], column, found))]


def _content(turn: Any, found: Findings) -> str:
    if not isinstance(turn, dict):
        raise Reject("wrong_type", f"a turn is {kind(turn)}, not an object")
    if turn.get("role") != _ROLE:
        raise Reject(
            "unknown_role", "a turn among texts has another role than pretrain", str(turn.get("role"))[:40]
        )
    return text(turn.get("content"), "the content of a turn", found)


PLAIN_TEXT = Mapper(
    "text", "text or content", _fits, _map, kind=Document, aliases=("pretrain", "pretrain_map_fn", "toy_text")
)
