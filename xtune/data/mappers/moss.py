"""MOSS-003's conversations: {"meta_instruction": str, "chat": {"turn_1": {"Human", "Inner Thoughts", "Commands",
"Tool Responses", "MOSS"}, ...}}, each part between tokens of its own ("<|Human|>: ...<eoh>").

The meta instruction is the system prompt, inner thoughts are reasoning, commands are tool calls and MOSS's words the
answer; the tokens go, for the chat format in use writes its own. Loss is on what the assistant writes. MOSS's
publisher and XTuner learn what the human says too.
"""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.literals import read_literal
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, kind, text
from xtune.messages import Message, Sample

# Column: the tokens before and after what it holds.
_PARTS = {
    "Human": ("<|Human|>:", "<eoh>"),
    "Inner Thoughts": ("<|Inner Thoughts|>:", "<eot>"),
    "Commands": ("<|Commands|>:", "<eoc>"),
    "Tool Responses": ("<|Results|>:", "<eor>"),
    "MOSS": ("<|MOSS|>:", "<eom>"),
}
_API = re.compile(r"^- (.+?): enabled\. API: (\w+)\((.*?)\)[ \t]*$", re.M)
_STRING = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_COMMAND = re.compile(rf"\s*(\w+)\(\s*({_STRING}(?:\s*,\s*{_STRING})*)\s*\)\s*(?:,|;|\Z)")

Tools = dict[str, list[str]]
"""Names of the parameters by the name of their tool."""


def _fits(row: Any) -> bool:
    chat = row.get("chat") if isinstance(row, dict) and not is_preference(row) else None
    turn = next(iter(chat.values()), None) if isinstance(chat, dict) else None
    return isinstance(turn, dict) and "MOSS" in turn


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "chat")
    if not isinstance(row["chat"], dict):
        raise Reject("wrong_type", f"chat is {kind(row['chat'])}, not an object of turns")
    system = text(row.get("meta_instruction"), "meta_instruction", found).rstrip("\n")
    definitions = tuple(_definition(*api) for api in _API.findall(system))
    tools = {tool["function"]["name"]: tool["function"]["parameters"]["required"] for tool in definitions}
    messages = [Message("system", system)] if system else []
    for turn in sorted(row["chat"].items(), key=lambda item: _number(item[0])):
        messages += _read_turn(turn[1], tools, found)
    return Sample(tuple(messages), definitions)


def _number(name: str) -> int:
    digits = re.fullmatch(r"turn_(\d{1,9})", name)
    if not digits:
        raise Reject("wrong_columns", "a turn of the chat is not named turn_1, turn_2, ...", name[:40])
    return int(digits[1])


def _definition(what: str, name: str, parameters: str) -> dict[str, Any]:
    names = [parameter.strip() for parameter in parameters.split(",") if parameter.strip()]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": schema}}


def _read_turn(turn: Any, tools: Tools, found: Findings) -> list[Message]:
    turn = columns_of(turn, "Human", "MOSS")
    question, thoughts, commands, results, answer = (_part(turn, column, found) for column in _PARTS)
    thoughts, commands, results = (
        "" if re.match(r"\s*None\b(?!\()", part) else part for part in (thoughts, commands, results)
    )
    user, reasoning = Message("user", question), thoughts.strip() or None
    if not commands.strip():
        if results.strip():
            raise Reject("misplaced_tool", "a result without a command")
        return [user, Message("assistant", answer, reasoning=reasoning)]
    written = _commands(commands)
    calls = tuple({"name": name, "arguments": _named(name, values, tools)} for name, values, _ in written)
    if not results.strip():
        raise Reject("misplaced_tool", "a command without a result")
    return [
        user,
        Message("assistant", "", reasoning=reasoning, tool_calls=calls),
        *_results(results, [(name, command) for name, _, command in written]),
        Message("assistant", answer),
    ]


def _part(turn: dict[str, Any], column: str, found: Findings) -> str:
    """What a part holds, without its tokens and the layout's white space around them."""
    start, end = _PARTS[column]
    said = text(turn.get(column), column, found).strip().removeprefix(start).removesuffix(end)
    if start in said or end in said:
        raise Reject("wrong_type", f"{column} holds several parts")
    return said.removeprefix(" ")


def _commands(written: str) -> list[tuple[str, list[str], str]]:
    """(name, arguments, as written) of each command in 'Search("a"), Search("b")'."""
    commands, position = [], 0
    while position < len(written.rstrip()):
        command = _COMMAND.match(written, position)
        if not command:
            raise Reject("wrong_type", 'Commands are not of the form Name("text")', written[position:][:80])
        values = [
            read_literal(value, "an argument of a command") for value in re.findall(_STRING, command[2])
        ]
        commands.append((command[1], values, command[0].strip(" ,;\n\t")))
        position = command.end()
    return commands


def _named(name: str, values: list[str], tools: Tools) -> dict[str, str]:
    if name not in tools:
        raise Reject("misplaced_tool", "a command that the meta instruction does not enable", name[:40])
    if len(values) != len(tools[name]):
        raise Reject("wrong_type", "a command with more or fewer arguments than its API", name[:40])
    return dict(zip(tools[name], values, strict=True))


def _results(written: str, commands: list[tuple[str, str]]) -> list[Message]:
    """A message for each command, where each result stands after its command and "=>"; else one for all."""
    parts, rest = [], written
    for name, command in commands:
        before, arrow, rest = rest.partition(f"{command} =>")
        if not arrow or (not parts and before.strip()):
            return [Message("tool", written.strip(), name=commands[0][0])]
        if parts:
            parts[-1] = Message("tool", before.strip(), name=parts[-1].name)
        parts.append(Message("tool", rest.strip(), name=name))
    return parts


MOSS = Mapper("moss", "meta_instruction, chat{turn_1{Human, ..., MOSS}}", _fits, _map, aliases=("moss_sft",))
