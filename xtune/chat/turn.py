"""One turn of a chat, with all that is shown and told of it: to a person, in a pipe, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from xtune.chat.answer import Chat, Turn, answer
from xtune.chat.compare import NARROWEST, Columns
from xtune.chat.conversation import Conversation, Settings
from xtune.chat.show import Plain, Rendered, Silent, say
from xtune.chat.terminal import ask_yes, is_dumb
from xtune.chat.tools import Tool
from xtune.errors import UsageError


@dataclass(frozen=True)
class Session:
    """Who answers, and how it is told.

    chats     one, or two that are compared
    tools     that may be called
    yes       whether tools run without the user being asked
    as_json   whether a turn is told as a line of JSON
    """

    chats: Sequence[Chat]
    tools: Sequence[Tool] = ()
    yes: bool = False
    as_json: bool = False


def take_turn(
    session: Session, conversations: Sequence[Conversation], prompt: str
) -> tuple[list[Conversation], list[Turn]]:
    """Each model's answer to a prompt, shown as it comes; and the conversations with it.

    Raises UsageError for an empty prompt, and what `answer` raises.
    """
    check_prompt(prompt)
    columns = _columns(session)
    allowed = partial(_allowed, session)
    turns = []
    try:
        for number, (chat, conversation) in enumerate(zip(session.chats, conversations, strict=True)):
            if columns:
                columns.begin(number)
            elif len(session.chats) > 1 and not session.as_json:
                print(f"--- {chat.name}", flush=True)
            show = columns or _show(session)
            asked = conversation.asked(prompt)
            try:
                turn = answer(chat, asked, conversation.settings, show, session.tools, allowed)
            finally:
                show.end()
            if not columns:
                show.close()
            turns.append(turn)
            if session.as_json:
                _tell(session, chat, prompt, turn)
            elif not columns:
                _comment(turn, conversation.settings)
    finally:
        if columns:
            columns.close()
    if columns:
        for chat, turn in zip(session.chats, turns, strict=True):
            _comment(turn, conversations[0].settings, f"{chat.name}: ")
    return [
        conversation.answered(prompt, turn.messages) if turn.messages else conversation
        for conversation, turn in zip(conversations, turns, strict=True)
    ], turns


def _show(session: Session) -> Silent:
    if session.as_json:
        return Silent()
    if not sys.stdout.isatty() or is_dumb():
        return Plain()
    from rich.console import Console

    return Rendered(Console())


def _columns(session: Session) -> Columns | None:
    """Where two answers have room beside each other."""
    if len(session.chats) < 2 or session.as_json or not sys.stdout.isatty() or is_dumb():
        return None
    from rich.console import Console

    console = Console()
    return Columns(console, session.chats) if console.width >= NARROWEST else None


def _allowed(session: Session, tool: Tool) -> bool:
    """Whether a call of a tool that asks may run."""
    if session.yes:
        return True
    if session.as_json or not (sys.stdin and sys.stdin.isatty()):
        say(f"{tool.name} was called, and not run: --yes allows it.")
        return False
    return ask_yes(f"Run {tool.name}?")


_ENDS = {
    "interrupt": "stopped",
    "calls": "no answer after so many calls",
    "bad_call": "the model's call cannot be read, and was not run",
}


def _comment(turn: Turn, settings: Settings, name: str = "") -> None:
    """What is to be said of a turn when it is over."""
    rate = f", {turn.tokens / turn.seconds:.1f} tokens/s" if turn.seconds > 0 else ""
    ended = _ENDS.get(turn.stopped_by, "")
    if turn.stopped_by == "length":
        full = turn.tokens < settings.max_new_tokens
        ended = "the model's context is full: /undo or /reset" if full else "cut by max_new_tokens"
    if not turn.messages:
        ended += "; the question is taken back"
    text = f"{name}{turn.tokens} tokens{rate}" + (f" ({ended})" if ended else "")
    say(text, always=turn.stopped_by in ("calls", "bad_call"))


def _tell(session: Session, chat: Chat, prompt: str, turn: Turn) -> None:
    """A turn as a line of JSON on stdout."""
    results = iter([message.content for message in turn.messages if message.role == "tool"])
    calls = [call for message in turn.messages for call in message.tool_calls]
    last = turn.messages[-1] if turn.messages else None
    row = {
        **({"model": chat.name} if len(session.chats) > 1 else {}),
        "prompt": prompt,
        "answer": last.content if last else "",
        "reasoning": last.reasoning if last else None,
        "tool_calls": [{**call, "result": next(results)} for call in calls],
        "tokens": turn.tokens,
        "seconds": round(turn.seconds, 3),
        "stopped_by": turn.stopped_by,
    }
    print(json.dumps(row, ensure_ascii=False), flush=True)


def check_prompt(prompt: str) -> None:
    """Raise UsageError for one that says nothing, or is no text."""
    if not prompt.strip():
        raise UsageError("The prompt is empty.", where="--prompt", fix="Say something.")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        where = ascii(prompt[:60])
        raise UsageError("The prompt is not UTF-8.", where=where, fix="Convert it, as with iconv.") from None
