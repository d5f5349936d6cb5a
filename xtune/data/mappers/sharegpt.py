"""ShareGPT: {"conversations": [{"from": "human", "value": str}, {"from": "gpt", "value": str}]}.

Also as "conversation"; with role and content for from and value (ChatGLM3); with question and answer in one
object, {"human": str, "assistant": str} (Firefly, ms-swift). Optional "system" and "tools". A call is a turn
from "function_call" whose value is the JSON text of {"name", "arguments"}; its result one from "observation".
"""

from __future__ import annotations

from typing import Any

from xtune.data.mappers.mapper import Mapped, Mapper, Reject, inner_json, is_preference, kind
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.turns import read_turns

_COLUMNS = ("conversations", "conversation")
_QUESTION_KEYS = ("human", "user")


def _fits(row: Any) -> bool:
    if not isinstance(row, dict) or is_preference(row):
        return False
    return any(_is_conversation(row[column]) for column in _COLUMNS if column in row)


def _is_conversation(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    turn = value[0] if isinstance(value, list) and value else None
    return isinstance(turn, dict) and ("from" in turn or "role" in turn or _is_exchange(turn))


def _is_exchange(turn: dict[str, Any]) -> bool:
    return "assistant" in turn and any(key in turn for key in _QUESTION_KEYS)


def _map(row: Any) -> Mapped:
    if not isinstance(row, dict):
        raise Reject(f"the row is {kind(row)}, not an object")
    column = next((column for column in _COLUMNS if column in row), None)
    if column is None:
        raise Reject('no column "conversations"')
    turns = row[column]
    if isinstance(turns, str):
        turns = inner_json(turns, column)
    if isinstance(turns, list):
        turns = [single for turn in turns for single in _split_exchange(turn)]
    repairs: list[str] = []
    messages = read_turns(turns, row.get("system"), repairs)
    return Mapped(messages, read_tools(row.get("tools")), tuple(repairs))


def _split_exchange(turn: Any) -> list[Any]:
    if not isinstance(turn, dict) or not _is_exchange(turn):
        return [turn]
    question = next(turn[key] for key in _QUESTION_KEYS if key in turn)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": turn["assistant"]}]


SHAREGPT = Mapper("sharegpt", "conversations[from, value]", _fits, _map)
