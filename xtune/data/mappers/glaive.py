"""Glaive's function calling, version 2: {"system": str, "chat": str}, a whole conversation in one text.

    USER: ...
    ASSISTANT: ... <functioncall> {"name": "f", "arguments": '{"city": "Rome"}'} <|endoftext|>
    FUNCTION RESPONSE: {"temperature": 22}
    ASSISTANT: ... <|endoftext|>

The system text lists the functions as JSON objects. The arguments of a call are JSON inside single quotes, which
makes the call a Python literal; where an apostrophe inside breaks that too, they are cut out at the outer quotes.
"""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.literals import read_literal
from xtune.data.mappers.mapper import Mapper, columns_of, inner_json, is_preference, text
from xtune.data.mappers.tools import tools_in_text
from xtune.data.mappers.transcript import read_transcript
from xtune.data.mappers.turns import read_turns
from xtune.messages import Sample

_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_START = re.compile(r"\s*(?:USER|ASSISTANT)\s*:")
_QUOTED = re.compile(r"(\{.*\"arguments\"\s*:\s*)'(.*)'(\s*\}\s*)", re.S)
_CALL = "<functioncall>"


def _fits(row: Any) -> bool:
    chat = row.get("chat") if isinstance(row, dict) and not is_preference(row) else None
    return isinstance(chat, str) and bool(_START.match(chat))


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "chat")
    system, chat = text(row.get("system"), "system", found), text(row["chat"], "chat", found)
    system, tools = tools_in_text(re.sub(r"^\s*SYSTEM:\s*", "", system).rstrip())
    turns = read_transcript(chat.replace("<|endoftext|>", "\n"), _ROLES)
    if not turns:
        raise Reject("unknown_role", "the chat does not start with USER: or ASSISTANT:")
    return Sample(read_turns([_turn(turn.role, turn.content) for turn in turns], system, found), tools)


def _turn(role: str, said: str) -> dict[str, Any]:
    words, *calls = said.split(_CALL) if role == "assistant" else [said]
    return {"role": role, "content": words.rstrip(), "tool_calls": [_read(call.strip()) for call in calls]}


def _read(call: str) -> Any:
    try:
        return inner_json(call, "a tool call")
    except Reject as fault:
        try:
            return read_literal(call, "a tool call")
        except Reject:
            quoted = _QUOTED.fullmatch(call)
            if not quoted:
                raise fault from None
            return inner_json("".join(quoted.groups()), "a tool call")


GLAIVE = Mapper("glaive", "system, chat as text", _fits, _map, aliases=("glaive_v2",))
