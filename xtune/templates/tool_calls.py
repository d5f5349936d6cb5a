"""What a model wrote, back as words and calls: one parser for each way of writing calls. Nothing is ever evaluated.

internlm2   Let me look.<|action_start|><|plugin|>⏎{"name": "f", "parameters": {"a": 1}}<|action_end|>
hermes      Let me look.⏎<tool_call>⏎{"name": "f", "arguments": {"a": 1}}⏎</tool_call>
chatglm3    ⏎Let me look.<|assistant|>f⏎```python⏎tool_call(a=1)⏎```
glm4        ⏎Let me look.<|assistant|>f⏎{"a": 1}
llama3_1    {"name": "f", "parameters": {"a": 1}}
react       Thought: Let me look.⏎Action: f⏎Action Input: {"a": 1}⏎Observation:
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

from xtune.errors import DataError
from xtune.strict_json import describe, read_value
from xtune.templates.template import Template

Call = dict[str, Any]
"""{"name": str, "arguments": dict}, as Message.tool_calls holds it."""


@dataclass(frozen=True)
class ParsedAnswer:
    """An assistant turn as Message has it."""

    content: str
    reasoning: str | None = None
    calls: tuple[Call, ...] = ()


def parse_tool_calls(text: str, template: Template) -> ParsedAnswer:
    """An assistant turn, decoded with its control tokens, with or without the stop token at its end.

    White space that the format itself does not keep is gone. Raises DataError for a call that is not whole.
    """
    stop = next((token for token in template.stop_tokens if text.endswith(token)), "")
    text = text.removesuffix(stop)
    reasoning = None
    if "<think>" in template.guarded_tokens and text.startswith("<think>"):
        inside, closed, text = text.removeprefix("<think>").partition("</think>")
        if not closed:
            raise _malformed("<think> is not closed by </think>", inside)
        reasoning, text = inside.strip("\n") or None, text.lstrip("\n")
    content, calls = PARSERS[template.tool_calls](text) if template.tool_calls else (text, [])
    return ParsedAnswer(content, reasoning, tuple(calls))


def keywords(arguments: Mapping[str, Any]) -> str:
    """Arguments as Python's keywords, `city='Beijing', days=2`, for ChatGLM3's template.

    The renderer's markers, which repr() would escape, stay what they are.
    """
    for name in arguments:
        plain = re.sub("[\ufdd0-\ufdef]", "", name)
        if not plain.isidentifier() or iskeyword(plain):
            raise DataError(
                f"A call has an argument {plain!r}, and this chat format writes arguments as Python's keywords.",
                fix="Name it with letters, digits and underscores, or use another template.",
            )
    written = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return re.sub(
        r"(?<!\\)((?:\\\\)*)\\u(fd[de][0-9a-f])", lambda found: found[1] + chr(int(found[2], 16)), written
    )


def _internlm2(text: str) -> tuple[str, list[Call]]:
    content, position, calls = _before(text, "<|action_start|>")
    while position < len(text):
        code = re.compile(
            r"<\|action_start\|><\|interpreter\|>\n```python\n(.*?)\n```\s*<\|action_end\|>\s*", re.S
        ).match(text, position)
        if code:
            calls.append({"name": "interpreter", "arguments": {"code": code[1]}})
            position = code.end()
            continue
        position = _expect("<|action_start|>", text, position)
        position = _expect("<|plugin|>", text, position)
        value, position = _json(text, position)
        calls.append(_call(value, "parameters"))
        position = _expect("<|action_end|>", text, position)
    return content, calls


def _hermes(text: str) -> tuple[str, list[Call]]:
    content, position, calls = _before(text, "<tool_call>")
    while position < len(text):
        position = _expect("<tool_call>", text, position)
        value, position = _json(text, position)
        calls.append(_call(value, "arguments"))
        position = _expect("</tool_call>", text, position)
    return content.removesuffix("\n") if calls else content, calls


def _chatglm3(text: str) -> tuple[str, list[Call]]:
    def read(name: str, position: int) -> tuple[dict[str, Any], int]:
        code = re.compile(r"\s*```python\n(.*?)\n```\s*(?=<\|assistant\|>|\Z)", re.S).match(text, position)
        if not code:
            raise _malformed(f"the call of {name} is not between ```python and ```", text[position:])
        return {"code": code[1]} if name == "interpreter" else _python_arguments(code[1]), code.end()

    content, calls = _chatglm_turns(text, read)
    return content.strip(), calls  # as the publisher does: sentencepiece decodes the first word with a space


def _glm4(text: str) -> tuple[str, list[Call]]:
    return _chatglm_turns(text, lambda _, position: _json(text, position))


def _chatglm_turns(text: str, read: Callable[[str, int], tuple[Any, int]]) -> tuple[str, list[Call]]:
    """One answer in several turns: words after an empty line, or a tool's name on the line and its arguments."""
    words: list[str] = []
    calls: list[Call] = []
    position = 0
    while True:
        line, _, _ = text[position:].partition("\n")
        name, body = line.strip(), position + len(line) + 1
        if name and body < len(text) and "<|assistant|>" not in name:
            arguments, position = read(name, body)
            calls.append(_call({"name": name, "arguments": arguments}, "arguments"))
        else:
            start = position if name else min(body, len(text))
            position = text.find("<|assistant|>", start)
            position = len(text) if position < 0 else position
            words.append(text[start:position])
        rest = text[position:].lstrip() if calls else text[position:]
        if not rest:
            return "\n\n".join(words), calls
        if not rest.startswith("<|assistant|>"):
            raise _malformed("words stand behind a call", rest)
        position = len(text) - len(rest) + len("<|assistant|>")


def _llama3_1(text: str) -> tuple[str, list[Call]]:
    bare = text.removeprefix("<|python_tag|>")
    if bare == text and not re.match(r'\s*\{\s*"name"\s*:', text):
        return text, []
    value = _whole_json(bare)
    if bare == text and "parameters" not in value:  # an answer may well be JSON
        return text, []
    return "", [_call(value, "parameters")]


def _react(text: str) -> tuple[str, list[Call]]:
    if not text.startswith(
        ("Thought:", " ")
    ):  # of a turn that goes on after a result, the program wrote "Thought:"
        return text, []
    text = text.removeprefix("Thought:")
    thought, action, call = text.partition("\nAction:")
    if action and "\nFinal Answer:" not in thought:
        name, given, arguments = call.partition("\nAction Input:")
        if not given:
            raise _malformed("an Action has no Action Input", call)
        arguments = arguments.partition("\nObservation:")[0]
        value = {"name": name.strip(), "arguments": _whole_json(arguments)}
        return thought.removeprefix(" "), [_call(value, "arguments")]
    _, final, answer = text.partition("\nFinal Answer:")
    return (answer if final else text).removeprefix(" "), []


PARSERS: dict[str, Callable[[str], tuple[str, list[Call]]]] = {
    "internlm2": _internlm2,
    "hermes": _hermes,
    "chatglm3": _chatglm3,
    "glm4": _glm4,
    "llama3_1": _llama3_1,
    "react": _react,
}
"""What Template.tool_calls may name."""
STOP_STRINGS: dict[str, tuple[str, ...]] = {"react": ("\nObservation:",)}
"""What ends a call of formats that have no token for it: behind it a model would make up the result."""


def _before(text: str, token: str) -> tuple[str, int, list[Call]]:
    """What stands before the first `token`, where that is, and an empty list for the calls."""
    position = text.find(token)
    return (text, len(text), []) if position < 0 else (text[:position], position, [])


def _expect(token: str, text: str, position: int) -> int:
    """The place behind `token`, which must stand at `position`, and behind the white space around it."""
    found = re.compile(rf"\s*{re.escape(token)}\s*").match(text, position)
    if not found:
        raise _malformed(f"{token} is missing", text[position:])
    return found.end()


def _whole_json(text: str) -> Any:
    value, end = _json(text.strip(), 0)
    if end < len(text.strip()):
        raise _malformed("words stand behind a call", text.strip()[end:])
    return value


def _json(text: str, position: int) -> tuple[Any, int]:
    """The JSON value at `position` and where it ends; what Python lets pass but JSON does not is refused."""
    try:
        value, fault, end = read_value(text, position)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"a call is not JSON ({describe(error)})", text[position:]) from None
    if fault:
        raise _malformed(f"a call is not JSON ({fault[0]})", text[position:])
    return value, end


def _call(value: Any, key: str) -> Call:
    """A call from {"name": ..., key: {...}}."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise _malformed("a call has no name", json.dumps(value, ensure_ascii=False))
    if not isinstance(value.get(key), dict):
        raise _malformed(f"the {key} of a call are no object", json.dumps(value, ensure_ascii=False))
    return {"name": value["name"], "arguments": value[key]}


def _python_arguments(code: str) -> dict[str, Any]:
    """The keyword arguments of `tool_call(...)`, all of which must be literals that JSON has too."""
    try:
        call = ast.parse(code.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "tool_call" or call.args:
            raise ValueError("it is not tool_call with named arguments alone")
        arguments = {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}
        if len(arguments) < len(call.keywords):
            raise ValueError("a key stands twice")
        if json.loads(json.dumps(arguments, allow_nan=False)) != arguments:
            raise ValueError("JSON has no such values")
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _malformed(f"a call is not plain Python ({error})", code) from None
    return arguments


def _malformed(what: str, where: str) -> DataError:
    return DataError(f"The model's call cannot be read: {what}.", where=where[:80])
