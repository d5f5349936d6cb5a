"""Reads rows that hold a question and its answer in columns of their own: what those formats share."""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.literals import inner_value
from xtune.data.mappers.mapper import is_preference, kind, text
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.turns import read_turns
from xtune.messages import Message, Sample

TURN_COLUMNS = ("messages", "conversations", "conversation")
"""Columns that hold a whole conversation."""
_QUESTION_COLUMNS = ("prompt", "question", "query", "problem", "instruction", "input")


def is_single(row: Any) -> bool:
    """Whether a row may be one question with its answer: no preference, and no conversation in a column."""
    return (
        isinstance(row, dict)
        and not is_preference(row)
        and not any(map(_is_turns, map(row.get, TURN_COLUMNS)))
    )


def _is_turns(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def join(*parts: str) -> str:
    """Parts of a question, such as instruction and input, a new line between those that have words."""
    return "\n".join(part for part in parts if part.strip())


def conversation(row: dict[str, Any], question: Any, answer: Any, found: Findings) -> Sample:
    """A question and its answer, each text or turns, with the row's system, history and tools. Raises Reject."""
    messages = (*before(row, found), *said(question, "user", found), *said(answer, "assistant", found))
    return Sample(messages, read_tools(row.get("tools")))


def before(row: dict[str, Any], found: Findings) -> tuple[Message, ...]:
    """What comes before a row's question: "system" (or "system_prompt"), and "history". Raises Reject."""
    system = text(_system(row), "system", found)
    prompt = (Message("system", system),) if system else ()
    return (*prompt, *_history(row.get("history"), found))


def said(value: Any, role: str, found: Findings) -> tuple[Message, ...]:
    """What one side says: text of that role, a turn or a list of turns. Raises Reject."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return read_turns(value, None, found)
    return (Message(role, text(value, "an answer" if role == "assistant" else "a question", found)),)


def question(row: dict[str, Any], found: Findings) -> tuple[Message, ...] | None:
    """What a row asks, where its answers stand apart from it: a conversation up to there, or one question after
    system and history. None if the row has no column for it. Raises Reject."""
    if column := next((column for column in TURN_COLUMNS if row.get(column)), None):
        turns = row[column]
        turns = inner_value(turns, column) if isinstance(turns, str) else turns
        return read_turns(turns, _system(row), found)
    column = question_column(row)
    if column is None:
        return None
    return (*before(row, found), *said(asked(row, column, found), "user", found))


def asked(row: dict[str, Any], column: str, found: Findings) -> Any:
    """The question in a column, with what it is about where the row has that: text, or turns. Raises Reject.

    After an instruction stands its "input" (Dolly: "context"); before any other question "context", or
    "reference" where that is a list of passages.
    """
    if column == "instruction":
        given = text(row.get("input", row.get("context")), "input", found)
        return join(text(row[column], column, found), given)
    passages = row.get("reference")
    if not isinstance(passages, list) or not all(isinstance(passage, str) for passage in passages):
        passages = []
    about = join(text(row.get("context"), "context", found), *passages)
    return join(about, text(row[column], column, found)) if about else row[column]


def question_column(row: dict[str, Any]) -> str | None:
    """The column that holds a row's one question."""
    return next((column for column in _QUESTION_COLUMNS if row.get(column) is not None), None)


def _system(row: dict[str, Any]) -> Any:
    return row.get("system", row.get("system_prompt"))


def _history(value: Any, found: Findings) -> tuple[Message, ...]:
    """[[question, answer], ...], or that as text where it comes from a table."""
    if isinstance(value, str) and value.strip():
        value = inner_value(value, "history")
    if value is None or isinstance(value, str):
        return ()
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Reject("wrong_type", "history is not a list of [question, answer]", kind(value))
    return tuple(
        Message(role, text(cell, "history", found))
        for pair in value
        for role, cell in zip(("user", "assistant"), pair, strict=True)
    )
