"""A conversation with a model, or two: the prompts of a command, the lines of a pipe, or turn by turn in a terminal.

Only answers go to stdout. What is loaded is said on stderr, and only to a person.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain

from xtune.chat.answer import Chat
from xtune.chat.commands import COMMANDS, run_command
from xtune.chat.compare import load_other, other_target
from xtune.chat.conversation import Conversation, Settings
from xtune.chat.load import chat_bits, load_chat
from xtune.chat.show import say
from xtune.chat.terminal import editing, read_line, read_message
from xtune.chat.tools import load_tools
from xtune.chat.turn import Session, check_prompt, take_turn
from xtune.errors import UsageError, UserError
from xtune.run.target import Target, find_target


def start(
    path: str,
    *,
    adapter: str | None = None,
    prompts: Sequence[str] = (),
    system: str | None = None,
    settings: Settings = Settings(),  # noqa: B008 (frozen)
    bits: int | None = None,
    compare: str | None = None,
    tools: str | None = None,
    yes: bool = False,
    as_json: bool = False,
) -> None:
    """Load `path` (with `adapter` on it) and answer: the prompts alone, or what stdin says until it ends.

    bits      as of load_chat
    compare   another model that answers too; "base" for the one that the adapter is on
    tools     as of load_tools
    """
    target = choose_target(path, adapter)
    if compare and tools:
        raise UsageError(
            "Two models are compared without tools.", where="--compare", fix="Leave out --tools."
        )
    other = other_target(target, compare) if compare else None
    loaded = load_tools(tools, target.template) if tools else ()
    for text in (*prompts, *filter(None, [system])):
        check_prompt(text)
    lines: Iterator[str] | None = iter(prompts)
    if not prompts:
        lines = None if sys.stdin and sys.stdin.isatty() else _piped()
    say(f"loading {path} …", always=False)
    model, tokenizer = load_chat(target, bits=bits)
    say(_describe(target, bits), always=False)
    chats = [Chat(model, tokenizer, target.template, path)]
    if other:
        chats.insert(0, load_other(chats[0], target, other, bits))
    session = Session(chats, loaded, yes, as_json)
    conversation = Conversation(system, (), settings, tuple(tool.schema for tool in loaded))
    conversations = [conversation] * len(chats)
    if lines is None:
        say("/help lists commands; Ctrl-C stops an answer; Ctrl-D ends", always=False)
        with editing(COMMANDS):
            _talk(session, conversations)
        return
    for line in lines:
        conversations, turns = take_turn(session, conversations, line)
        if any(turn.stopped_by == "interrupt" for turn in turns):
            raise KeyboardInterrupt


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


def _talk(session: Session, conversations: list[Conversation]) -> None:
    """Turns at a terminal. A second Ctrl-C at the prompt raises KeyboardInterrupt."""
    stopping = False
    while True:
        try:
            line = read_message(read_line)
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            say("\nCtrl-C again, or Ctrl-D, ends the chat.")
            continue
        stopping = False
        try:
            if line.startswith("/") and not line.startswith("//"):
                # of two conversations, the one with TARGET is saved
                first = len(conversations) - 1 if line.startswith("/save") else 0
                steps = [run_command(line, each) for each in conversations[first:]]
                if steps[-1].leave:
                    return
                if steps[-1].say:
                    say(steps[-1].say)
                before = [step.conversation for step in steps]
                if steps[-1].ask is not None:
                    after, turns = take_turn(session, before, steps[-1].ask)
                    if not any(turn.messages for turn in turns):
                        continue  # the answer that was there stays
                    before = after
                conversations[first:] = before
            elif line.strip():
                conversations[:], _ = take_turn(session, conversations, line.removeprefix("/"))
        except UserError as error:  # of this turn only: the conversation goes on
            say(f"error: {error}", style="")


def _piped() -> Iterator[str]:
    """The lines of stdin that say something, as they come in; the first of them at once, so that a mistake shows
    before the model is loaded. Raises UsageError where there is none."""

    def read() -> Iterator[str]:
        for line in sys.stdin.buffer if sys.stdin else ():
            text = line.decode("utf-8-sig", errors="surrogateescape").rstrip("\r\n")
            if text.strip():
                yield text

    lines = read()
    first = next(lines, None)
    if first is None:
        raise UsageError("There is nothing to answer: standard input is empty.", fix="Use --prompt TEXT.")
    return chain([first], lines)


def _describe(target: Target, bits: int | None) -> str:
    adapter = f", adapter {target.adapter}" if target.adapter else ""
    number = chat_bits(target, bits)
    weights = f", {number}-bit weights" if number else ""
    if number and bits is None:
        weights += " as it was trained (--bits 16: not quantised)"
    return f"base {target.base}{adapter}, template {target.template.name}{weights}"
