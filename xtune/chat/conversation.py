"""A conversation as it stands, and what can be done to it: plain values, so that a step back is the value before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.home import write_whole
from xtune.messages import Message
from xtune.recipe.faults import did_you_mean


@dataclass(frozen=True)
class Settings:
    """How answers are written; see generate."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int | None = None

    def __str__(self) -> str:
        return "\n".join(f"{each.name} {_shown(getattr(self, each.name))}" for each in fields(self))


@dataclass(frozen=True)
class Conversation:
    """What was said, and how the model is to go on.

    system     the system prompt; None for the template's own
    messages   the turns, without the system prompt
    tools      that the model may call, in OpenAI's form
    """

    system: str | None = None
    messages: tuple[Message, ...] = ()
    settings: Settings = Settings()
    tools: tuple[Mapping[str, Any], ...] = ()

    def asked(self, prompt: str) -> tuple[Message, ...]:
        """What the model is to go on from when `prompt` is asked next."""
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *self.messages, Message("user", prompt))

    def answered(self, prompt: str, answer: Sequence[Message]) -> Conversation:
        """With a question and all that came of it: the answer, or calls, their results and the answer."""
        return replace(self, messages=(*self.messages, Message("user", prompt), *answer))


def undo(conversation: Conversation) -> tuple[Conversation, str]:
    """Without the last question and what came of it; and that question. Raises UsageError where there is none."""
    places = [place for place, message in enumerate(conversation.messages) if message.role == "user"]
    if not places:
        raise UsageError("Nothing was asked yet.")
    last = conversation.messages[places[-1]]
    return replace(conversation, messages=conversation.messages[: places[-1]]), last.content


def _at_least_zero(number: float) -> bool:
    return number >= 0 and math.isfinite(number)


_SETTINGS: dict[str, tuple[Callable[[str], Any], Callable[[Any], bool], str]] = {
    "temperature": (float, _at_least_zero, "a number from 0: 0 takes the likeliest token each time"),
    "top_p": (float, lambda number: 0 < number <= 1, "a number above 0, up to 1"),
    "max_new_tokens": (int, lambda number: number >= 1, "a whole number from 1"),
    "seed": (
        lambda text: None if text == "none" else int(text),
        lambda number: number is None or 0 <= number < 2**63,
        "a whole number from 0, or none",
    ),
}


def set_value(settings: Settings, name: str, value: str) -> Settings:
    """The settings with another value, as it is typed. Raises UsageError for what is none."""
    if name not in _SETTINGS:
        raise UsageError(
            f"There is no setting {name!r}{did_you_mean(name, _SETTINGS) or '.'}",
            fix=f"Use one of {', '.join(_SETTINGS)}.",
        )
    read, allowed, what = _SETTINGS[name]
    try:
        number = read(value)
    except ValueError:
        number = math.nan
    if number is math.nan or not allowed(number):
        raise UsageError(f"{name} is {what}, not {value!r}.")
    return replace(settings, **{name: number})


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def save(conversation: Conversation, path: str) -> None:
    """Write the conversation as data to train on, in the format `messages`. Raises UsageError where it cannot."""
    file = Path(path).expanduser()
    if not conversation.messages:
        raise UsageError("There is nothing to save yet.", where=path)
    if file.suffix not in (".json", ".jsonl"):
        raise UsageError("A conversation is saved as .json or .jsonl.", where=path, fix=f"/save {path}.jsonl")
    if file.exists():
        raise UsageError("The file exists already, and is left as it is.", where=path, fix="Name another.")
    row = as_row(conversation)
    lines = file.suffix == ".jsonl"
    content = json.dumps(row if lines else [row], ensure_ascii=False, indent=None if lines else 2)
    try:
        write_whole(file, content + "\n")
    except OSError as error:
        raise UsageError(f"The file cannot be written: {error.strerror}.", where=path) from None


def as_row(conversation: Conversation) -> dict[str, Any]:
    """The conversation as a row of data in the format `messages`."""
    system = [] if conversation.system is None else [Message("system", conversation.system)]
    row: dict[str, Any] = {"messages": [_as_turn(message) for message in (*system, *conversation.messages)]}
    if conversation.tools:
        row["tools"] = list(conversation.tools)
    return row


def _as_turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning:
        turn["reasoning_content"] = message.reasoning
    if message.tool_calls:
        turn["tool_calls"] = [{"type": "function", "function": call} for call in message.tool_calls]
    if message.name:
        turn["name"] = message.name
    return turn
