"""One turn: the model answers, or calls tools, is given their results, and then answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from xtune.chat.conversation import Settings
from xtune.chat.generate import generate
from xtune.chat.partial import as_words, so_far, whole
from xtune.chat.tools import Tool, run_call
from xtune.errors import DataError, ResourceError, UsageError
from xtune.messages import Message
from xtune.templates.template import Template
from xtune.templates.tool_calls import ParsedAnswer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROUNDS = 8
"""How often in a turn the model may call tools before it has to answer."""


@dataclass(frozen=True)
class Chat:
    """A loaded model that answers.

    name         what it is called beside another
    no_adapter   whether the adapter on it is set aside
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    template: Template
    name: str = ""
    no_adapter: bool = False


class Show(Protocol):
    """Where a turn is shown as it is written."""

    def answer(self, said: ParsedAnswer) -> None:
        """What is written so far of this answer."""

    def end(self) -> None:
        """The answer is whole, or goes no further."""

    def call(self, call: Mapping) -> None: ...

    def result(self, text: str) -> None: ...


@dataclass(frozen=True)
class Turn:
    """What came of a question.

    messages     answers, calls and results in their order; the last is the answer. Empty where there is none
    tokens       that the model wrote in all
    seconds      that it took, tools included
    stopped_by   "stop", "length" (max_new_tokens or the model's context), "calls" (more of them than ROUNDS),
                 "bad_call" (one that cannot be read, left in the answer as it is), "interrupt" (Ctrl-C)
    """

    messages: tuple[Message, ...]
    tokens: int
    seconds: float
    stopped_by: str


def answer(
    chat: Chat,
    asked: Sequence[Message],
    settings: Settings,
    show: Show,
    tools: Sequence[Tool] = (),
    allowed: Callable[[Tool], bool] = lambda _: False,
) -> Turn:
    """Go on from what was asked. Ctrl-C ends the turn with what is there.

    Raises UsageError where the conversation fills the model's context or its numbers are not finite, DataError where
    its format cannot express the conversation, ResourceError where memory runs out.
    """
    began, said, tokens, stopped_by = time.monotonic(), [], 0, "interrupt"
    try:
        for rounds in range(ROUNDS + 1):
            text, number, stopped_by = _write(chat, [*asked, *said], settings, show, tools)
            tokens += number
            try:
                parsed = whole(text, chat.template, bool(tools))
            except DataError:
                parsed = as_words(text, chat.template)
                stopped_by = "bad_call" if stopped_by == "stop" else stopped_by
            show.answer(parsed)
            show.end()
            if not text and stopped_by == "interrupt":
                break
            said.append(Message("assistant", parsed.content, parsed.reasoning, parsed.calls))
            if not parsed.calls or stopped_by == "interrupt":
                break
            if rounds == ROUNDS:
                stopped_by = "calls"
                break
            stopped_by = "interrupt"  # if it comes in a tool
            for call in parsed.calls:
                show.call(call)
                result = run_call(call, tools, allowed)
                show.result(result)
                said.append(Message("tool", result, name=call["name"]))
    except KeyboardInterrupt:
        pass
    while said and (said[-1].role == "tool" or said[-1].tool_calls):  # no turn to go on from
        said.pop()
    return Turn(tuple(said), tokens, time.monotonic() - began, stopped_by)


def _write(
    chat: Chat, messages: Sequence[Message], settings: Settings, show: Show, tools: Sequence[Tool]
) -> tuple[str, int, str]:
    """(text, tokens, stopped_by) of one answer, shown as it is written."""
    from xtune.model.load import is_out_of_memory

    text, stopped_by, written = "", "interrupt", []
    stream = generate(
        chat.model,
        chat.tokenizer,
        chat.template,
        messages,
        tools=[tool.schema for tool in tools],
        **vars(settings),
        written=written,
    )
    try:
        with chat.model.disable_adapter() if chat.no_adapter else nullcontext(), closing(stream):
            while True:
                try:
                    text += next(stream)
                except StopIteration as end:
                    stopped_by = end.value
                    break
                show.answer(so_far(text, chat.template, bool(tools)))
    except KeyboardInterrupt:
        pass
    except (RuntimeError, MemoryError) as error:
        if "probability tensor" in str(error):
            raise UsageError(
                "The model's numbers are not finite: it is broken, or has diverged in training.",
                fix="Look at the loss of its run; xtune doctor RUN does.",
            ) from error
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "Memory ran out while the model answered.",
            fix="/reset makes room; --bits 4 takes a quarter for weights.",
        ) from error
    return text, len(written), stopped_by
