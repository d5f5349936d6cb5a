"""Reads tool definitions and tool calls, in the shapes they come in."""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Reject
from xtune.data.mappers.mapper import inner_json, kind
from xtune.strict_json import read_value

Call = dict[str, Any]
"""{"name": str, "arguments": dict}, as Message.tool_calls holds it."""

INTERPRETER = "interpreter"
"""The tool that chat formats with a code interpreter of their own know it by; it is called with `code` alone."""

_OBJECT = re.compile(r'\{\s*"')


def read_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Tool definitions, from a list or its JSON text, as {"type": "function", "function": {...}}.

    That is OpenAI's form, the one transformers' chat templates are written for. Raises Reject.
    """
    if isinstance(value, str) and value.strip():
        value = inner_json(value, "tools")
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise Reject("wrong_type", f"tools is {kind(value)}, not a list")
    return tuple(_definition(tool) for tool in value)


def tools_in_text(text: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """(words, tools) of a system prompt that lists its tools as JSON objects with a name and a description.

    The words are what stands before the list. Where other words come after it they cannot be parted, and the
    whole text stays, list and all.
    """
    tools, rest, position, start = [], "", 0, len(text)
    while (brace := text.find("{", position)) >= 0:
        rest += text[position:brace]
        try:
            tool, fault, position = read_value(text, brace)
        except (ValueError, RecursionError):
            tool, fault, position = None, ("", ""), brace + 1
        if fault and _OBJECT.match(text, brace):
            return text, ()  # a broken list: what is inside it may look like a tool
        if isinstance(tool, dict) and isinstance(tool.get("name"), str) and "description" in tool:
            if not tools:
                start, rest = brace, ""
            tools.append(_definition(_with_schema(tool)))
        else:
            rest += text[brace:position]
    rest += text[position:]
    if not tools or not re.fullmatch(r"(?:\s|,|\]|\d+[.、])*", rest):
        return text, tuple(tools)
    before = text[:start].rstrip()
    words, _, last = before.rpartition("\n")
    return words.rstrip() if re.fullmatch(r"\s*(?:\d+[.、]|\[)?", last) else before, tuple(tools)


def interpreter_tool(description: str) -> dict[str, Any]:
    """The definition of the code interpreter."""
    code = {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
    return {
        "type": "function",
        "function": {"name": INTERPRETER, "description": description, "parameters": code},
    }


def read_calls(turn: dict[str, Any]) -> list[tuple[Any, Call]]:
    """(id or None, call) of each call in a turn: tool_calls, the older function_call, XTuner's
    code_interpreter_call. Raises Reject."""
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Reject("wrong_type", f"tool_calls is {kind(calls)}, not a list")
    if turn.get("function_call"):
        calls = [*calls, turn["function_call"]]
    found = [read_call(call) for call in calls]
    if code := turn.get("code_interpreter_call"):
        if not isinstance(code, str):
            raise Reject("wrong_type", f"code_interpreter_call is {kind(code)}, not text")
        fenced = re.fullmatch(r"\s*```(?:python)?\n(.*?)\n?```\s*", code, re.S)
        found.append((None, {"name": INTERPRETER, "arguments": {"code": fenced[1] if fenced else code}}))
    return found


def read_call(call: Any) -> tuple[Any, Call]:
    """(id or None, call) from {"id", "function": {"name", "arguments"}} or {"name", "arguments"}.

    Either may be JSON text, and so may `arguments`, which XTuner calls `parameters`. Raises Reject.
    """
    if isinstance(call, str):
        call = inner_json(call, "a tool call")
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Reject("wrong_type", "a tool call has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = inner_json(arguments, "the arguments of a tool call")
    if arguments is None or isinstance(arguments, str):
        arguments = {}
    if not isinstance(arguments, dict):
        raise Reject("wrong_type", f"the arguments of a tool call are {kind(arguments)}, not an object")
    return call.get("id"), {"name": function["name"], "arguments": arguments}


def answering_tool(turn: dict[str, Any], waiting: list[tuple[Any, Call]]) -> str | None:
    """The name of the tool that a turn holds the result of; takes the call it answers out of `waiting`.

    Told by its tool_call_id, else by its name, else it answers the call that has waited longest.
    """
    name, call_id = turn.get("name"), turn.get("tool_call_id")
    if name is not None and not isinstance(name, str):
        raise Reject("wrong_type", f"the name of a tool is {kind(name)}, not text")
    by_id = [call for call in waiting if call_id is not None and call[0] == call_id]
    by_name = [call for call in waiting if call[1]["name"] == name]
    answered = next(iter(by_id or by_name or waiting), None)
    if answered is None:
        return name or None
    waiting.remove(answered)
    return name or answered[1]["name"]


def _definition(tool: Any) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Reject("wrong_type", "a tool has no name")
    return {"type": "function", "function": tool} if function is tool else tool


def _with_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """The tool with parameters as a JSON schema, where they are a list of {"name", "description", "required"}."""
    listed = tool.get("parameters")
    if not isinstance(listed, list) or not all(isinstance(one, dict) and "name" in one for one in listed):
        return tool
    properties = {
        str(one["name"]): {key: value for key, value in one.items() if key not in ("name", "required")}
        for one in listed
    }
    required = [str(one["name"]) for one in listed if one.get("required") in (True, "True", "true")]
    return {**tool, "parameters": {"type": "object", "properties": properties, "required": required}}
