"""Decodes a JSON document value by value while holding only a part of its text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from xtune.strict_json import SPACE, Fault, read_value

# Where text ends inside a value, the decoder's error stands at most this far before the end ("-Infinity",
# "\ud83d\ude00"), unless a string is open there.
_MARGIN = 16


class Window:
    """The part of a document's text from `position` on that was needed so far.

    text      what is held; grows at its end, and may lose what stands before `position`
    position  index in `text` up to which the document is read
    line, column  where the value last located starts; column is None for what comes first on its line
    """

    def __init__(self, pieces: Iterable[str]):
        """pieces: the document's text, cut anywhere; none of them empty."""
        self.text, self.position = "", 0
        self.line, self.column = 1, None
        self._pieces = iter(pieces)
        self._line_before = 0
        # The line of the character at _counted, and the index in `text`, perhaps negative, where it begins.
        self._counted, self._counted_line, self._line_start = 0, 1, 0

    def more(self) -> bool:
        """Hold more text, twice as much as before if need be; False at the end of the document."""
        self._count(self.position)
        kept, added = self.text[self.position :], []
        size = len(kept)
        while size <= len(kept):  # by doubling, so that a long value is not decoded again for every piece
            piece = next(self._pieces, "")
            if not piece:
                break
            added.append(piece)
            size += len(piece)
        if not added:
            return False
        self.text = "".join([kept, *added])
        self._counted -= self.position
        self._line_start -= self.position
        self.position = 0
        return True

    def ahead(self) -> int:
        """The index of the first character from `position` on that is no white space; len(text) at the end."""
        while True:
            index = SPACE.match(self.text, self.position).end()
            if index < len(self.text) or not self.more():
                return index

    def value(self) -> tuple[Any, Fault | None]:
        """Decode the value at `position` and step over it. Raises as read_value does."""
        while True:
            try:
                value, fault, end = read_value(self.text, self.position)
            except json.JSONDecodeError as error:
                if self.may_be_cut(error) and self.more():
                    continue
                raise
            # Of a number only the first digits may be held: 1 of 1e+5.
            if end > len(self.text) - 3 and isinstance(value, int | float) and self.more():
                continue
            self.position = end
            return value, fault

    def fail(self, message: str, index: int) -> NoReturn:
        """Raise JSONDecodeError for the character at `index`, with enough text held to tell if it is the end."""
        ahead = index - self.position
        while self.position + ahead > len(self.text) - _MARGIN and self.more():
            pass
        raise json.JSONDecodeError(message, self.text, self.position + ahead)

    def may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the error may come from the end of the text that is held."""
        return error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _MARGIN

    def locate(self) -> None:
        """Set line and column to those of `position`."""
        self._count(self.position)
        self.line = self._counted_line
        self.column = self.position - self._line_start + 1 if self.line == self._line_before else None
        self._line_before = self.line

    def place(self, index: int) -> tuple[int, int]:
        """1-based line and column of a character that does not lie before the one located last."""
        line = self._counted_line + self.text.count("\n", self._counted, index)
        last_break = self.text.rfind("\n", self._counted, index)
        return line, index - (self._line_start if last_break < 0 else last_break + 1) + 1

    def read_out(self) -> tuple[bool, int]:
        """Go through the rest of the document: whether it holds more than white space, the last such line."""
        line = self.place(len(self.text))[0]
        last, found = self.place(len(self.text.rstrip()))[0], False
        for piece in self._pieces:
            if filled := piece.rstrip():
                last, found = line + filled.count("\n"), True
            line += piece.count("\n")
        return found, last

    def _count(self, index: int) -> None:
        self._counted_line, column = self.place(index)
        self._counted, self._line_start = index, index - column + 1
