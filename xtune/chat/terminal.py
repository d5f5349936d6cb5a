"""Reading what a person types: lines with editing and history, and messages of several lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from xtune.home import home

HISTORY_LENGTH = 1000
QUOTES = '"""'


def is_dumb() -> bool:
    """Whether the terminal only shows text as it comes."""
    return os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")


def read_message(read: Callable[[str], str], prompt: str = "you> ") -> str:
    r"""One message: a line; lines that end with \ and the next; lines between \""" and \""".

    read    gives a line for a prompt, without its end. Raises what it raises: EOFError, KeyboardInterrupt.
    """
    line = read(prompt)
    if line.strip().startswith(QUOTES):
        begun = line.strip().removeprefix(QUOTES)
        lines = [begun] if begun else []
        while not (lines and lines[-1].rstrip().endswith(QUOTES)):
            lines.append(read("...> "))
        lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
        return "\n".join(lines if lines[-1] else lines[:-1])
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read("...> "))
    return "\n".join(lines)


def read_line(prompt: str) -> str:
    """A line from the terminal. Raises EOFError at its end."""
    if sys.stdout.isatty():
        return input(prompt)
    print(
        prompt, end="", file=sys.stderr, flush=True
    )  # answers are redirected: the prompt must not go with them
    return input()


@contextmanager
def editing(commands: Iterable[str]) -> Iterator[None]:
    """Within, lines can be edited, are remembered from one chat to the next, and Tab completes commands; on a dumb
    terminal, and where Python has no readline, nothing of it."""
    try:
        import readline
    except ImportError:
        readline = None
    if readline is None or is_dumb():
        yield
        return
    names = [f"/{name}" for name in commands]
    readline.set_completer(
        lambda text, number: (
            ([name for name in names if name.startswith(text)] + [None])[number]
            if text.startswith("/") and readline.get_begidx() == 0
            else None
        )
    )
    readline.set_completer_delims(" ")
    readline.parse_and_bind("tab: complete")
    readline.parse_and_bind("set enable-bracketed-paste on")  # what is pasted is one message
    file = home() / "chat_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LENGTH)
    try:
        yield
    finally:
        with suppress(OSError):  # a home that cannot be written
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)


@contextmanager
def unechoed() -> Iterator[None]:
    """Within, what is typed is not shown (it is kept for the next line): it would spoil what is drawn meanwhile."""
    import termios

    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, AttributeError, ValueError, OSError):  # no terminal
        yield
        return
    quiet = [*before]
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def ask_yes(question: str) -> bool:
    """Whether a person says yes; the answer is not remembered among what was said."""
    with suppress(ImportError):
        import readline

        readline.set_auto_history(False)
    try:
        return read_line(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
    finally:
        with suppress(ImportError):
            readline.set_auto_history(True)
