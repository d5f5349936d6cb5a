"""Two models that answer the same: which is the other, and their answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xtune.chat.answer import Chat
from xtune.chat.load import load_chat
from xtune.chat.show import Drawing, Silent, markdown, parts
from xtune.errors import UsageError
from xtune.families.embedded import model_directory
from xtune.families.tokenizer import load_tokenizer
from xtune.run.target import Target, find_target
from xtune.templates.tool_calls import ParsedAnswer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

BASE = "base"
"""What --compare means by itself: the base of TARGET's adapter."""
NARROWEST = 80
"""Columns that a terminal needs for two answers side by side."""


def other_target(target: Target, compare: str) -> Target:
    """What `target` is compared with. Raises UsageError where it has no base of its own."""
    if compare != BASE:
        return find_target(compare)
    if target.adapter is None:
        raise UsageError(
            "This is no adapter: it does not say what it was made from.",
            where="--compare",
            fix="Name the other model: --compare MODEL",
        )
    return find_target(target.base)


def load_other(chat: Chat, target: Target, other: Target, bits: int | None) -> Chat:
    """The other model, ready to answer: the base of `chat`'s adapter is that model with the adapter set aside."""
    if target.adapter and not other.adapter and model_directory(other.base) == model_directory(target.base):
        tokenizer = load_tokenizer(other.tokenizer_path, family=other.options.family)
        return Chat(chat.model, tokenizer, other.template, other.base, no_adapter=True)
    model, tokenizer = load_chat(other, bits=bits)
    return Chat(model, tokenizer, other.template, str(other.adapter or other.base))


class Columns(Silent):
    """Answers beside each other, drawn anew as they grow and printed for good when all are whole."""

    def __init__(self, console: Console, chats: Sequence[Chat]) -> None:
        self.console, self.chats = console, chats
        self.parts = [("", "")] * len(chats)
        """Thinking and the answer of each."""
        self.number = 0
        self.drawing = Drawing(console)

    def answer(self, said: ParsedAnswer) -> None:
        self.parts[self.number] = parts(said)
        if self.drawing.due():
            self.drawing.draw(self._table())

    def begin(self, number: int) -> None:
        """What comes now is of this model."""
        self.number = number

    def close(self) -> None:
        self.drawing.close()
        if any(map(any, self.parts)):
            self.console.print(self._table())
            self.console.print()

    def _table(self) -> Table:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for chat in self.chats:
            table.add_column(Text(chat.name, style="bold"), ratio=1, overflow="fold")
        cells = []
        for thinking, said in self.parts:
            cells.append(Group(*([Text(thinking, style="dim italic")] if thinking else []), markdown(said)))
        table.add_row(*cells)
        return table
