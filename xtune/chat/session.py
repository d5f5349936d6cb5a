"""A conversation with a model: one prompt, the lines of a pipe, or turn by turn in a terminal.

Only answers go to stdout. What is loaded is said on stderr, and only to a person.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from xtune.chat.generate import generate
from xtune.chat.load import load_chat
from xtune.errors import DataError, UsageError, UserError
from xtune.messages import Message
from xtune.run.target import Target, find_target
from xtune.templates.template import Template
from xtune.templates.tool_calls import parse_tool_calls
from xtune.terminal import messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Chat:
    """A loaded model and how it is to answer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    template: Template
    system: str | None = None
    max_new_tokens: int = 512
    temperature: float = 0.0


def start(
    path: str,
    *,
    adapter: str | None = None,
    prompt: str | None = None,
    system: str | None = None,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
) -> None:
    """Load `path` (with `adapter` on it) and answer: `prompt` alone, or what stdin says until it ends."""
    target = choose_target(path, adapter)
    prompts: Iterator[str] | None = None
    if prompt is not None:
        _check_prompt(prompt)
        prompts = iter([prompt])
    elif sys.stdin is None or not sys.stdin.isatty():
        prompts = _piped_lines()
        first = next(prompts, None)  # before the model is loaded, so that a mistake shows at once
        if first is None:
            raise UsageError("There is nothing to answer: standard input is empty.", fix="Use --prompt TEXT.")
        prompts = chain([first], prompts)
    _say(f"loading {path} …")
    model, tokenizer = load_chat(target)
    _say(_describe(target))
    chat = Chat(model, tokenizer, target.template, system, max_new_tokens, temperature)
    if prompts is None:
        _say("/reset forgets the conversation; /quit or Ctrl-D ends; Ctrl-C stops an answer")
        _talk(chat)
        return
    history: list[Message] = []
    for line in prompts:
        reply(chat, history, line, _write)
        _write("\n")


def choose_target(path: str, adapter: str | None = None) -> Target:
    """The model at `path`, with the adapter on it if one is named."""
    if adapter is None:
        return find_target(path)
    model = find_target(path)
    if model.adapter:
        raise UsageError(
            f"{path} has an adapter of its own; a second cannot be put on it.",
            where="--adapter",
            fix=f"Name the base model instead: xtune chat {model.base} --adapter {adapter}",
        )
    target = find_target(adapter, base=model.base)
    if target.adapter is None:
        raise UsageError(
            f"{adapter} is a whole model, not an adapter.", where="--adapter", fix=f"xtune chat {adapter}"
        )
    return target


def reply(chat: Chat, history: list[Message], prompt: str, write: Callable[[str], None]) -> None:
    """Answer `prompt`, handing each piece to `write` as it comes, and add both turns to `history`.

    An answer that is interrupted stays in the history as far as it was written. Raises UsageError for an
    empty prompt.
    """
    _check_prompt(prompt)
    question = Message("user", prompt)
    system = [] if chat.system is None else [Message("system", chat.system)]
    stream = generate(
        chat.model,
        chat.tokenizer,
        chat.template,
        [*system, *history, question],
        max_new_tokens=chat.max_new_tokens,
        temperature=chat.temperature,
    )
    answer, finished = "", False
    try:
        for piece in stream:
            begins, answer = not answer.strip(), answer + piece
            # GLM begins an answer with a line break, which is no part of it
            write(piece.lstrip() if begins and chat.template.tool_calls else piece)
        finished = True
    finally:
        stream.close()  # stops the model, also where the interrupt came while writing
        if finished or answer:
            history += [question, _as_message(answer, chat.template)]


def _as_message(answer: str, template: Template) -> Message:
    """What the model wrote as the turn it is: without the format's own line breaks, thinking apart."""
    if template.tool_calls is None:
        return Message("assistant", answer)
    try:
        parsed = parse_tool_calls(answer, template)
    except DataError:  # a call gone wrong, or cut short: as it was written
        return Message("assistant", answer)
    return Message("assistant", parsed.content, parsed.reasoning, parsed.calls)


def _talk(chat: Chat) -> None:
    """Turns at a terminal. Ctrl-C at the prompt raises KeyboardInterrupt."""
    history: list[Message] = []
    while True:
        try:
            line = _ask()
        except EOFError:
            print(file=sys.stderr)
            return
        command = line.strip()
        if command == "/quit":
            return
        if command == "/reset":
            history.clear()
            _say("The conversation is forgotten.")
        elif command:
            try:
                reply(chat, history, line, _write)
            except KeyboardInterrupt:
                _write(" …")
            except UserError as error:  # of this turn only: the conversation goes on
                print(f"error: {error}", file=sys.stderr)
                continue
            _write("\n")


def _ask() -> str:
    """A line from the terminal, with editing and history where it is one on both ends."""
    if not sys.stdout.isatty():  # answers are redirected: the prompt must not go with them
        print("you> ", end="", file=sys.stderr, flush=True)
        return input()
    with suppress(ImportError):  # not on every platform
        import readline  # noqa: F401
    return input("you> ")


def _piped_lines() -> Iterator[str]:
    """The lines of stdin that say something, as they come in."""
    for line in sys.stdin.buffer if sys.stdin else ():
        text = line.decode("utf-8-sig", errors="surrogateescape").rstrip("\r\n")
        if text.strip():
            yield text


def _check_prompt(prompt: str) -> None:
    if not prompt.strip():
        raise UsageError("The prompt is empty.", where="--prompt", fix="Say something.")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        where = ascii(prompt[:60])
        raise UsageError("The prompt is not UTF-8.", where=where, fix="Convert it, as with iconv.") from None


def _describe(target: Target) -> str:
    adapter = f", adapter {target.adapter}" if target.adapter else ""
    return f"base {target.base}{adapter}, template {target.template.name}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    if sys.stderr.isatty():
        messages().print(text, markup=False, soft_wrap=True, style="dim")
