"""OpenAI's messages: {"messages": [{"role": "user", "content": str}, ...]}, or the bare list as a row.

Optional "tools" (older: "functions"), also on the system message (GLM-4), and "system". A turn may have
tool_calls (older: function_call) and reasoning_content; the content may be a list of parts (LLaMA-Factory v1);
"loss": false on an assistant's turn keeps it from being learnt. XTuner's data for InternLM2's agents is this too:
the column "code_interpreter" describes the interpreter, "code_interpreter_call" on a turn is code for it.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.literals import inner_value
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, text
from xtune.data.mappers.tools import interpreter_tool, read_tools
from xtune.data.mappers.turns import read_turns
from xtune.messages import Sample


def _fits(row: Any) -> bool:
    if isinstance(row, dict) and is_preference(row):
        return False
    turns = row.get("messages") if isinstance(row, dict) else row
    if isinstance(turns, str):
        return isinstance(row, dict) and turns.lstrip().startswith("[{")
    first = turns[0] if isinstance(turns, list) and turns else None
    # XTuner's plain text has this form too, with a role of its own.
    return isinstance(first, dict) and first.get("role", "pretrain") != "pretrain"


def _map(row: Any, found: Findings) -> Sample:
    if isinstance(row, list):
        row = {"messages": row}
    turns = columns_of(row, "messages")["messages"]
    if isinstance(turns, str):
        turns = inner_value(turns, "messages")
    messages = read_turns(turns, row.get("system"), found)
    on_system = next((turn["tools"] for turn in turns if turn.get("tools")), None)
    tools = read_tools(row.get("tools") or row.get("functions") or on_system)
    if interpreter := text(row.get("code_interpreter"), "code_interpreter", found):
        tools += (interpreter_tool(interpreter),)
    return Sample(messages, tools)


MESSAGES = Mapper(
    "messages", "messages[role, content], or a bare list of such", _fits, _map, aliases=("openai_map_fn",)
)
