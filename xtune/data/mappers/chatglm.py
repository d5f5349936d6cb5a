"""ChatGLM's two ways of writing a call, as turns in OpenAI's words.

ChatGLM3's fine-tuning data has call and result in one turn, {"role": "tool", "name", "parameters", "observation"}.
Histories of ChatGLM3 and GLM-4 have the tool's name beside the call: {"role": "assistant", "metadata": "f",
"content": "```python\\ntool_call(city='Rome')\\n```"}, in GLM-4 with JSON for content.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Reject
from xtune.errors import DataError
from xtune.templates.template import find_template
from xtune.templates.tool_calls import parse_tool_calls

Turn = dict[str, Any]


def as_turns(turn: Turn) -> list[Turn]:
    """The turn, or those it stands for. Raises Reject."""
    name, metadata = turn.get("name"), turn.get("metadata")
    if turn.get("role") == "tool" and "observation" in turn:
        call = {"name": name, "arguments": turn.get("parameters")}
        result = {"role": "tool", "name": name, "content": turn["observation"]}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}, result]
    if turn.get("role") == "assistant" and isinstance(metadata, str) and metadata.strip():
        return [{**turn, "content": "", "tool_calls": [_read(metadata.strip(), str(turn.get("content")))]}]
    return [turn]


def _read(name: str, written: str) -> dict[str, Any]:
    form = find_template("glm4" if written.lstrip().startswith("{") else "chatglm3")
    try:
        calls = parse_tool_calls(f"{name}\n{written}", form).calls
    except DataError as error:
        calls, detail = (), error.what
    else:
        detail = ""
    if len(calls) != 1:
        raise Reject("wrong_type", "a turn with metadata is no call in ChatGLM's form", detail)
    return calls[0]
