"""Showing turns as they are written: as they are, or with their markdown rendered, on a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from xtune.chat.terminal import unechoed
from xtune.templates.tool_calls import ParsedAnswer
from xtune.terminal import messages

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult


class Silent:
    """Shows nothing: for what is told when the turn is over."""

    def answer(self, said: ParsedAnswer) -> None: ...

    def end(self) -> None: ...

    def call(self, call: Mapping) -> None: ...

    def result(self, text: str) -> None: ...

    def close(self) -> None:
        """The turn is over."""


class Plain(Silent):
    """The answer on stdout as it comes; thinking, calls and results on stderr."""

    def __init__(self) -> None:
        self.sent = 0
        self.thinking = ""
        self.lines = 0

    def answer(self, said: ParsedAnswer) -> None:
        self.thinking = said.reasoning or ""
        if said.content and not self.sent:
            self._tell_thinking()
        sys.stdout.write(said.content[self.sent :])
        sys.stdout.flush()
        self.sent = max(self.sent, len(said.content))

    def end(self) -> None:
        if self.sent:
            print(flush=True)
            self.lines += 1
        else:
            self._tell_thinking()
        self.sent = 0

    def _tell_thinking(self) -> None:
        if self.thinking:
            say(self.thinking + "\n")

    def call(self, call: Mapping) -> None:
        say(call_text(call))

    def result(self, text: str) -> None:
        say(result_text(text))

    def close(self) -> None:
        if not self.lines:  # the model said nothing: a line too, for who counts them
            print(flush=True)


class Drawing:
    """Something on the terminal that is drawn anew as it grows, no taller than the terminal: of what is, its end. (rich
    cannot draw over what has scrolled away; its own thread would now and then draw between two halves of a print.)"""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.within = ExitStack()
        self.within.enter_context(unechoed())
        self.within.enter_context(self.live)
        self.next = 0.0

    def due(self) -> bool:
        """Whether it is time to draw again."""
        return time.monotonic() >= self.next

    def draw(self, renderable: RenderableType) -> None:
        self.live.update(Trimmed(renderable, self.live.console.height - 2), refresh=True)
        self.next = time.monotonic() + 0.1

    def print_above(self, renderable: RenderableType) -> None:
        """Print for good; what is drawn is gone until it is drawn again."""
        self.live.update("")
        self.live.console.print(Trimmed(renderable))

    def close(self) -> None:
        self.live.update("")
        self.within.close()


class Trimmed:
    """Something without empty lines before and after it; of more than `height` lines the last."""

    def __init__(self, renderable: RenderableType, height: int | None = None) -> None:
        self.renderable, self.height = renderable, height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = console.render_lines(self.renderable, options.update(height=None), pad=False)
        filled = [place for place, line in enumerate(lines) if "".join(part.text for part in line).strip()]
        lines = lines[filled[0] : filled[-1] + 1] if filled else []
        for line in lines[-max(self.height or len(lines), 1) :]:
            yield from line
            yield Segment.line()


class Rendered(Silent):
    """Markdown rendered as it comes, thinking dim. What is finished is printed for good; only the block that is being
    written is drawn anew."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.drawing: Drawing | None = None
        self.parts = ("", "")
        """Thinking, and the answer."""
        self.printed = [0, 0]
        """Characters of thinking and of the answer that are printed for good."""

    def answer(self, said: ParsedAnswer) -> None:
        self.drawing = self.drawing or Drawing(self.console)
        self.parts = parts(said)
        if self.drawing.due():
            thinking, answer = self.parts
            self._print(0, thinking, len(thinking) if answer else thinking.rfind("\n") + 1)
            self._print(1, answer, self.printed[1] + finished(answer[self.printed[1] :]))
            self.drawing.draw(self._rendered(1, answer) if answer else self._rendered(0, thinking))

    def end(self) -> None:
        if self.drawing is None:
            return
        self.drawing.draw("")
        for kind, part in enumerate(self.parts):
            self._print(kind, part, len(part))
        self.drawing.close()
        self.drawing, self.printed = None, [0, 0]

    def call(self, call: Mapping) -> None:
        self.console.print(call_text(call), style="cyan", markup=False, highlight=False)

    def result(self, text: str) -> None:
        self.console.print(result_text(text) + "\n", style="dim", markup=False, highlight=False)

    def _print(self, kind: int, part: str, end: int) -> None:
        if part[self.printed[kind] : end].strip():
            self.drawing.print_above(self._rendered(kind, part[:end]))
            if kind or end == len(part):
                self.console.print()
        self.printed[kind] = max(end, self.printed[kind])

    def _rendered(self, kind: int, part: str) -> RenderableType:
        from rich.text import Text

        text = part[self.printed[kind] :]
        return markdown(text) if kind else Text(text, style="dim italic")


def parts(said: ParsedAnswer) -> tuple[str, str]:
    """Thinking and the answer, without what a terminal would take for commands."""
    return tuple((text or "").replace("\x1b", "␛") for text in (said.reasoning, said.content))


def markdown(text: str) -> RenderableType:
    """Markdown as rich shows it, with an empty line between blocks; but that nothing is lost: HTML is text here, and a
    new line a new line."""
    from rich.console import Group
    from rich.markdown import Markdown

    shown: list[RenderableType] = []
    for block in _blocks(text):
        made = Markdown("", code_theme="ansi_dark", hyperlinks=False)
        made.parsed = _parse(block)
        for token in made.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
        shown += [*([""] if shown else []), Trimmed(made)]
    return Group(*shown)


def finished(text: str) -> int:
    """How many characters of a markdown text no later ones can change the meaning of: its top-level blocks but the
    last, as far as lines are whole."""
    return sum(map(len, _blocks(text[: text.rfind("\n") + 1])[:-1]))


def _blocks(text: str) -> list[str]:
    """The top-level blocks of a markdown text, which they are together."""
    lines = text.split("\n")
    begins = [token.map[0] for token in _parse(text) if token.level == 0 and token.map][1:]
    parts = [lines[begin:end] for begin, end in zip([0, *begins], [*begins, len(lines)], strict=True)]
    return ["\n".join(part) + "\n" * (part is not parts[-1]) for part in parts]


def _parse(text: str) -> list[Any]:
    from markdown_it import MarkdownIt

    return (
        MarkdownIt()
        .enable(["strikethrough", "table"])
        .disable(["html_block", "html_inline", "reference"])
        .parse(text)
    )


def call_text(call: Mapping) -> str:
    """A call for people: calculator(expression="1 + 1"), or a program as it is."""
    arguments = call["arguments"]
    if list(arguments) == ["code"] and isinstance(arguments["code"], str):
        return f"{call['name']}:\n{_indented(arguments['code'])}"
    shown = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{call['name']}({shown})"


def result_text(text: str) -> str:
    return _indented(text if len(text) <= 2000 else text[:2000] + " …")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def say(text: str, style: str = "dim", always: bool = True) -> None:
    """Tell a person something, on stderr; unless `always`, only on a terminal."""
    if always or sys.stderr.isatty():
        messages().print(text, markup=False, soft_wrap=True, style=style)
