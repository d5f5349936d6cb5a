"""ShareGPT: {"conversations": [{"from": "human", "value": str}, {"from": "gpt", "value": str}]}.

Also as "conversation"; from "user" and "assistant" (Qwen); with role and content for from and value (ChatGLM3);
with question and answer in one object, {"human": str, "assistant": str} (Firefly, ms-swift); as text, JSON or
Python's. Optional "system", "tools" and "history": [[question, answer], ...]. A call is a turn from "function_call"
whose value is the JSON text of {"name", "arguments"}; its result one from "observation".
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import before
from xtune.data.mappers.literals import inner_value
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.turns import read_turns
from xtune.messages import Sample

_COLUMNS = ("conversations", "conversation")
_QUESTION_KEYS = ("human", "user")
# What MSAgent-Bench writes calls and results between.
_AGENT_BLOCKS = ("<|startofthink|>", "<|startofexec|>")


def is_conversation(row: Any) -> bool:
    """Whether a row has a conversation in one of the columns, and does not say which answer is better."""
    if not isinstance(row, dict) or is_preference(row):
        return False
    return any(_is_turns(row[column]) for column in _COLUMNS if column in row)


def has_agent_blocks(row: dict[str, Any]) -> bool:
    """Whether a conversation has calls written between MSAgent-Bench's tokens, or is told to write them so."""
    return any(block in str(row.get(column)) for column in _COLUMNS for block in _AGENT_BLOCKS)


def turns_of(row: Any) -> Any:
    """The turns of a row, one for each speaker, in the words they come in. Raises Reject."""
    row = columns_of(row)
    column = next((column for column in _COLUMNS if column in row), _COLUMNS[0])
    turns = columns_of(row, column)[column]
    if isinstance(turns, str):
        turns = inner_value(turns, column)
    if not isinstance(turns, list):
        return turns
    return [single for turn in turns for single in _split_exchange(turn)]


def _fits(row: Any) -> bool:
    return is_conversation(row) and not has_agent_blocks(row)


def _is_turns(value: Any) -> bool:
    if isinstance(value, str):
        return value.lstrip().startswith("[{")
    turn = value[0] if isinstance(value, list) and value else None
    return isinstance(turn, dict) and ("from" in turn or "role" in turn or _is_exchange(turn))


def _is_exchange(turn: dict[str, Any]) -> bool:
    return "assistant" in turn and any(key in turn for key in _QUESTION_KEYS)


def _map(row: Any, found: Findings) -> Sample:
    turns = turns_of(row)
    messages = read_turns(turns, row.get("system"), found)
    history = before({"history": row.get("history")}, found)
    first = next((index for index, message in enumerate(messages) if message.role != "system"), len(messages))
    return Sample((*messages[:first], *history, *messages[first:]), read_tools(row.get("tools")))


def _split_exchange(turn: Any) -> list[Any]:
    if not isinstance(turn, dict) or not _is_exchange(turn):
        return [turn]
    question = next(turn[key] for key in _QUESTION_KEYS if key in turn)
    return [{"role": "user", "content": question}, {"role": "assistant", "content": turn["assistant"]}]


SHAREGPT = Mapper(
    "sharegpt", "conversations[from, value]", _fits, _map, aliases=("wizardlm", "wizardlm_map_fn")
)
