"""Reads tool definitions and tool calls, in the shapes they come in."""

from __future__ import annotations

from typing import Any

from xtune.data.mappers.mapper import Reject, inner_json, kind

Call = dict[str, Any]
"""{"name": str, "arguments": dict}, as Message.tool_calls holds it."""


def read_tools(value: Any) -> tuple[dict[str, Any], ...]:
    """Tool definitions, from a list or its JSON text, as {"type": "function", "function": {...}}.

    That is OpenAI's form, the one transformers' chat templates are written for. Raises Reject.
    """
    if isinstance(value, str) and value.strip():
        value = inner_json(value, "tools")
    if value is None or value == "":
        return ()
    if not isinstance(value, list):
        raise Reject(f"tools is {kind(value)}, not a list")
    return tuple(_definition(tool) for tool in value)


def read_calls(turn: dict[str, Any]) -> list[tuple[Any, Call]]:
    """(id or None, call) of each call in a turn: tool_calls and the older function_call. Raises Reject."""
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list):
        raise Reject(f"tool_calls is {kind(calls)}, not a list")
    if turn.get("function_call"):
        calls = [*calls, turn["function_call"]]
    return [read_call(call) for call in calls]


def read_call(call: Any) -> tuple[Any, Call]:
    """(id or None, call) from {"id", "function": {"name", "arguments"}} or {"name", "arguments"}.

    Either may be JSON text, and so may `arguments`, which XTuner calls `parameters`. Raises Reject.
    """
    if isinstance(call, str):
        call = inner_json(call, "a tool call")
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Reject("a tool call has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = inner_json(arguments, "the arguments of a tool call")
    if arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, dict):
        raise Reject(f"the arguments of a tool call are {kind(arguments)}, not an object")
    return call.get("id"), {"name": function["name"], "arguments": arguments}


def answering_tool(turn: dict[str, Any], waiting: list[tuple[Any, Call]]) -> str | None:
    """The name of the tool that a turn holds the result of; takes the call it answers out of `waiting`.

    Told by its name, else by its tool_call_id, else it answers the call that has waited longest.
    """
    name, call_id = turn.get("name"), turn.get("tool_call_id")
    if name is not None and not isinstance(name, str):
        raise Reject(f"the name of a tool is {kind(name)}, not text")
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
        raise Reject("a tool has no name")
    return {"type": "function", "function": tool} if function is tool else tool
