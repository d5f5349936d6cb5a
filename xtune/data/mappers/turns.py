"""Reads the turns of a conversation, in ShareGPT's words (from, value) or OpenAI's (role, content)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers import chatglm
from xtune.data.mappers.mapper import kind, text
from xtune.data.mappers.tools import INTERPRETER, Call, answering_tool, read_call, read_calls
from xtune.messages import Message

# Names of roles in the wild, in lower case. function_call is an assistant's turn whose text is the call.
ROLE_NAMES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "bot", "chatgpt", "bard", "moss"),
    "tool": (
        *("tool", "observation", "function", "environment", "ipython"),
        *("tool_response", "code_interpreter"),
    ),
    "function_call": ("function_call", "tool_call"),
}
_ROLES = {name: role for role, names in ROLE_NAMES.items() for name in names}
_MEDIA = (
    *("image", "image_url", "input_image", "audio", "input_audio", "audio_url"),
    *("video", "video_url", "file"),
)
# Whether a turn is learnt: the name of XTuner and ms-swift, LLaMA-Factory's, OpenAI's.
_LOSS_KEYS = ("loss", "loss_weight", "weight")
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def read_turns(turns: Any, system: Any, found: Findings) -> tuple[Message, ...]:
    """The messages of a conversation, with the system prompt that may stand in a column of its own.

    A turn of calls alone goes on with the assistant's turn before it, so that parallel calls, or words and their
    call, are one message. What had to be repaired goes into `found`. Raises Reject.
    """
    if not isinstance(turns, list):
        raise Reject("wrong_type", f"the conversation is {kind(turns)}, not a list")
    messages: list[Message] = []
    waiting: list[tuple[Any, Call]] = []  # calls without a result so far
    for turn in turns:
        if not isinstance(turn, dict):
            raise Reject("wrong_type", f"a turn is {kind(turn)}, not an object")
        for single in chatglm.as_turns(turn):
            message = _read_turn(single, waiting, found)
            before = messages[-1] if messages else None
            alone = message.tool_calls and not message.content and not message.reasoning
            if alone and before and before.role == "assistant" and before.loss == message.loss:
                messages[-1] = replace(before, tool_calls=before.tool_calls + message.tool_calls)
            else:
                messages.append(message)
    prompt = Message("system", text(system, "system", found))
    # Some files have the same prompt in both places.
    if prompt.content and prompt not in messages[:1]:
        messages.insert(0, prompt)
    return tuple(messages)


def _read_turn(turn: dict[str, Any], waiting: list[tuple[Any, Call]], found: Findings) -> Message:
    role = _role(turn.get("from", turn.get("role")))
    if turn.get("files"):
        raise Reject("media", "a turn has files: only text can be trained on")
    content, reasoning, calls = _content(turn.get("value", turn.get("content")), role, found)
    calls += read_calls(turn)
    if calls and role != "assistant" and role != "function_call":
        raise Reject("misplaced_tool", f"a {role} turn calls a tool")
    if role == "tool":
        if str(turn.get("from", turn.get("role"))).strip().lower() == "code_interpreter":
            turn = {**turn, "name": INTERPRETER}
        return Message(role, content, name=answering_tool(turn, waiting))
    if role in ("system", "user"):
        return Message(role, content)
    waiting += calls
    apart = next((turn[key] for key in _REASONING_KEYS if turn.get(key)), reasoning)
    return Message(
        "assistant",
        content,
        reasoning=text(apart, "the reasoning", found) or None,
        tool_calls=tuple(call for _, call in calls),
        loss=_loss(turn),
    )


def _role(name: Any) -> str:
    if not isinstance(name, str):
        raise Reject(
            "unknown_role", "a turn has no role" if name is None else f"a role is {kind(name)}, not text"
        )
    role = _ROLES.get(name.strip().lower())
    if role is None:
        raise Reject("unknown_role", f'unknown role "{name[:40]}"')
    return role


def _content(value: Any, role: str, found: Findings) -> tuple[str, str, list[tuple[Any, Call]]]:
    """(text, reasoning, calls) of a turn, whose content is text or a list of parts."""
    if role == "function_call":
        return "", "", [read_call(call) for call in (value if isinstance(value, list) else [value])]
    if role == "tool" and isinstance(value, dict | list) and not _are_parts(value):
        found.repair("not_text", "a tool's result written as JSON text")
        return json.dumps(value, ensure_ascii=False), "", []
    if not isinstance(value, list):
        return text(value, "the content of a turn", found), "", []
    words, reasoning, calls = "", "", []
    for part in value:
        part = {"type": "text", "text": part} if isinstance(part, str) else part
        if not isinstance(part, dict):
            raise Reject("wrong_type", f"a part of the content is {kind(part)}")
        name, inner = part.get("type"), part.get("text", part.get("value"))
        if name == "text":
            words += text(inner, "a text part", found)
        elif name in ("reasoning", "thinking"):
            reasoning += text(part.get("thinking", inner), "a reasoning part", found)
        elif name == "tool_call":
            calls.append(read_call(inner))
        elif name in _MEDIA:
            raise Reject("media", f"a turn holds {str(name).replace('_', ' ')}: only text can be trained on")
        else:
            raise Reject("wrong_type", "a part of the content is of an unknown type", str(name)[:40])
    return words, reasoning, calls


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, str) or (isinstance(part, dict) and "type" in part) for part in value
    )


def _loss(turn: dict[str, Any]) -> bool:
    key = next((key for key in _LOSS_KEYS if turn.get(key) is not None), None)
    if key is None:
        return True
    value = turn[key]
    if isinstance(value, str):  # Python's or JSON's word, from a table or a template
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower(), value)
    if value not in (0, 1):
        raise Reject("wrong_type", f"{key} is neither true nor false", str(turn[key])[:40])
    return bool(value)
