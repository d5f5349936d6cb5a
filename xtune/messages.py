"""The neutral forms of what is learnt from: what every mapper gives, whatever the file looked like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation.

    role        one of ROLES
    content     what was said; "" where a turn holds only tool calls
    reasoning   the thinking before the answer, where the data has it apart from the answer
    tool_calls  calls the assistant makes: ({"name": str, "arguments": dict}, ...)
    name        of the tool that a `tool` message answers for
    loss        False: the model sees this assistant turn but is not trained to write it
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    name: str | None = None
    loss: bool = True


# `source` of each of these is "file:line" of the record it came from; `tools` are in OpenAI's form.


@dataclass(frozen=True)
class Sample:
    """A conversation to train on."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Pair:
    """Two ways to go on from `prompt`, of which `chosen` is the better (DPO, reward models)."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Labelled:
    """A conversation whose last answer is good or bad (KTO)."""

    messages: tuple[Message, ...]
    good: bool
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Prompt:
    """A question for a model to answer, for online reinforcement learning.

    answer   what a reward may compare with; None where the row has none
    columns  all of the row, for reward functions of the user's
    """

    messages: tuple[Message, ...]
    answer: Any = None
    columns: dict[str, Any] = field(default_factory=dict)
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Document:
    """Plain text, of which every token is learnt (pre-training)."""

    text: str
    source: str = ""


AnySample = Sample | Pair | Labelled | Prompt | Document


def under_condition(messages: Sequence[Message], condition: str) -> tuple[Message, ...]:
    """The messages with a condition in front of their system prompt, or as it: what kind of preferences count."""
    first, *others = messages
    if first.role == "system":
        return (replace(first, content=f"{condition}\n\n{first.content}"), *others)
    return (Message("system", condition), *messages)
