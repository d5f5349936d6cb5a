"""The neutral form of a conversation: what every mapper gives, whatever the file looked like."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Sample:
    """A conversation to train on. `source` is "file:line" of the record it came from."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    source: str = ""
