"""MSAgent-Bench: ShareGPT's conversations, with calls and results inside the assistant's words.

    <|startofthink|>```JSON {"api_name": str, "parameters": {...}} ```<|endofthink|>
    <|startofexec|>```JSON result ```<|endofexec|>
    words

become a call, a tool's message and an answer. Words before the JSON of a think block are reasoning. The address of
the service in a call ("url") is no part of a neutral call and is left out. The system prompt lists the tools.
"""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.mapper import Mapper, inner_json
from xtune.data.mappers.sharegpt import has_agent_blocks, is_conversation, turns_of
from xtune.data.mappers.tools import Call, read_tools, tools_in_text
from xtune.data.mappers.turns import ROLE_NAMES, read_turns
from xtune.messages import Sample

_BLOCK = re.compile(r"<\|startof(think|exec)\|>(.*?)<\|endof\1\|>", re.S)
_TOKEN = re.compile(r"<\|(?:start|end)of(?:think|exec)\|>")
_FENCED = re.compile(r"(.*?)```(?:json)?(.*?)(?:```\s*)?", re.S | re.I)

Turn = dict[str, Any]


def _fits(row: Any) -> bool:
    return is_conversation(row) and has_agent_blocks(row)


def _map(row: Any, found: Findings) -> Sample:
    given = turns_of(row)
    turns, tools = [], read_tools(row.get("tools"))
    for turn in given if isinstance(given, list) else []:
        role, words = _said(turn)
        if role == "system":
            words, listed = tools_in_text(words)
            turns.append({"role": role, "content": words})
            tools += listed
        elif role in ROLE_NAMES["assistant"] and _TOKEN.search(words):
            turns += _split(words, {key: flag for key, flag in turn.items() if key not in ("from", "value")})
        else:
            turns.append(turn)
    return Sample(read_turns(turns or given, row.get("system"), found), tools)


def _said(turn: Any) -> tuple[str, str]:
    """(role, words) of a turn; ("", "") of one that is no plain text."""
    if not isinstance(turn, dict):
        return "", ""
    role, words = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    return (role.lower(), words) if isinstance(role, str) and isinstance(words, str) else ("", "")


def _split(said: str, flags: Turn) -> list[Turn]:
    """The turns that one of the assistant's is made of."""
    words, *blocks = _BLOCK.split(said)  # words, then kind, inside and words of each block
    if any(_TOKEN.search(part) for part in (words, *blocks)):
        raise Reject("wrong_type", "a think or exec block is not closed")
    turns: list[Turn] = []
    for name, inside, after in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True):
        if name == "think":
            reasoning, call = _think(inside)
            turns.append(_answer(words, flags, thinking=reasoning, tool_calls=[call]))
        else:
            turns += [_answer(words, flags)] if words.strip() else []
            fenced = _FENCED.fullmatch(inside)
            turns.append({"role": "tool", "content": (fenced[2] if fenced else inside).strip()})
        words = after
    return [*turns, _answer(words, flags)] if words.strip() else turns


def _answer(words: str, flags: Turn, **more: Any) -> Turn:
    return {**flags, "role": "assistant", "content": words.strip(), **more}


def _think(inside: str) -> tuple[str, Call]:
    """(words, call) of a think block."""
    fenced = _FENCED.fullmatch(inside)
    start = max(inside.find("{"), 0)
    words, written = fenced.groups() if fenced else (inside[:start], inside[start:])
    call = inner_json(written, "a tool call")
    if not isinstance(call, dict) or "api_name" not in call:
        raise Reject("wrong_type", "a tool call has no name")
    return words.strip(), {"name": call["api_name"], "arguments": call.get("parameters")}


MSAGENT = Mapper(
    "msagent",
    "conversations[from, value] with <|startofthink|> blocks",
    _fits,
    _map,
    aliases=("msagent_react_map_fn",),
)
