"""OpenAI's messages: {"messages": [{"role": "user", "content": str}, ...]}, or the bare list as a row.

Optional "tools" (older: "functions"), also on the system message (GLM-4), and "system". A turn may have
tool_calls (older: function_call) and reasoning_content; "loss": false on an assistant's
turn keeps it from being learnt.
"""

from __future__ import annotations

from typing import Any

from xtune.data.mappers.mapper import Mapped, Mapper, Reject, inner_json, is_preference, kind
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.turns import read_turns


def _fits(row: Any) -> bool:
    if isinstance(row, dict) and is_preference(row):
        return False
    turns = row.get("messages") if isinstance(row, dict) else row
    if isinstance(turns, str):
        return isinstance(row, dict) and turns.lstrip().startswith("[{")
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "role" in turns[0]


def _map(row: Any) -> Mapped:
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise Reject(f"the row is {kind(row)}, not an object")
    if "messages" not in row:
        raise Reject('no column "messages"')
    turns = row["messages"]
    if isinstance(turns, str):
        turns = inner_json(turns, "messages")
    repairs: list[str] = []
    messages = read_turns(turns, row.get("system"), repairs)
    on_system = next((turn["tools"] for turn in turns if turn.get("tools")), None)
    tools = read_tools(row.get("tools") or row.get("functions") or on_system)
    return Mapped(messages, tools, tuple(repairs))


MESSAGES = Mapper("messages", "messages[role, content], or a bare list of such", _fits, _map)
