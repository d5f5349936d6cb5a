"""The commands of a chat: what begins with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from xtune.chat.conversation import Conversation, save, set_value, undo
from xtune.errors import UsageError
from xtune.recipe.faults import did_you_mean


@dataclass(frozen=True)
class Step:
    """What a command comes to.

    conversation   as it is afterwards
    say            what the user is told
    ask            a question to answer now
    leave          whether the chat ends
    """

    conversation: Conversation
    say: str = ""
    ask: str | None = None
    leave: bool = False


def run_command(line: str, conversation: Conversation) -> Step:
    """Do what a line says that begins with a slash. Raises UsageError, with the nearest name for an unknown one."""
    name, _, rest = line.strip().removeprefix("/").partition(" ")
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS).replace("did you mean ", "did you mean /") or "."
        raise UsageError(
            f"There is no command /{name}{near}",
            fix="/help lists them. To say something that begins with a slash, begin with two.",
        )
    return COMMANDS[name](conversation, rest.strip())


_HELP = """\
/system TEXT        what the model is told first; /system shows it, /system none takes it away
/reset              forget the conversation
/undo               take the last question and its answer back
/regenerate         answer the last question again
/set NAME VALUE     temperature, top_p, max_new_tokens, seed; /set shows them
/save FILE.jsonl    write the conversation as data to train on
/quit               end, as does Ctrl-D

Ctrl-C stops an answer. A line that ends with \\ goes on in the next; lines between \"""
and \""" are one message, and so are lines that are pasted together. //text says /text."""


def _help(conversation: Conversation, _: str) -> Step:
    return Step(conversation, _HELP)


def _system(conversation: Conversation, text: str) -> Step:
    if not text:
        said = conversation.system
        return Step(conversation, "The template's own, if it has one." if said is None else said)
    system = None if text == "none" else text
    return Step(
        replace(conversation, system=system), "The system prompt is " + ("set." if system else "taken away.")
    )


def _reset(conversation: Conversation, _: str) -> Step:
    return Step(replace(conversation, messages=()), "The conversation is forgotten.")


def _undo(conversation: Conversation, _: str) -> Step:
    before, question = undo(conversation)
    return Step(before, f"Taken back: {_short(question)}")


def _regenerate(conversation: Conversation, _: str) -> Step:
    before, question = undo(conversation)
    settings, why = conversation.settings, ""
    if settings.temperature == 0:
        why = "The answer will be the same at temperature 0; /set temperature 0.7 lets it vary."
    elif settings.seed is not None:
        why = "The answer will be the same with the same seed; /set seed none lets it vary."
    return Step(before, why, ask=question)


def _set(conversation: Conversation, text: str) -> Step:
    name, _, value = text.partition(" ")
    settings = set_value(conversation.settings, name, value.strip()) if name else conversation.settings
    return Step(replace(conversation, settings=settings), str(settings))


def _save(conversation: Conversation, path: str) -> Step:
    if not path:
        raise UsageError("Where to?", fix="/save FILE.jsonl")
    save(conversation, path)
    return Step(conversation, f"Saved as {path}. Training reads it, and so does: xtune data check {path}")


def _quit(conversation: Conversation, _: str) -> Step:
    return Step(conversation, leave=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


COMMANDS: dict[str, Callable[[Conversation, str], Step]] = {
    "help": _help,
    "system": _system,
    "reset": _reset,
    "undo": _undo,
    "regenerate": _regenerate,
    "set": _set,
    "save": _save,
    "quit": _quit,
}
