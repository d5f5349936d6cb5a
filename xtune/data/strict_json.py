"""Decodes JSON values one after the other out of one text, and finds what Python's json lets pass."""

from __future__ import annotations

import json
import re
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Fault = tuple[str, str]
"""What is wrong with a value: the kind, and what is particular to this case."""


class Decoder:
    """Decodes the values of `text`; `line` and `column` are where the value last located starts.

    What Python's json takes but JSON does not allow, or what it silently drops, is noted as a fault of the
    value it is in; decoding goes on, so that the values after it are still read.
    """

    def __init__(self, text: str):
        self.text = text
        self.line = 1
        self.column: int | None = None
        self._counted = self._line_start = self._line_before = 0
        self._faults: list[Fault] = []
        self._json = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_float=self._float
        )

    def value(self, position: int) -> tuple[Any, Fault | None, int]:
        """The value at `position`, its fault if any, and the position after it.

        Raises ValueError (JSONDecodeError where the place is known) or RecursionError.
        """
        self._faults.clear()
        value, end = self._json.raw_decode(self.text, position)
        # UTF-8 cannot hold half of a surrogate pair, so it can only come from an escape.
        if not self._faults and _SURROGATE.search(self.text, position, end):
            try:
                json.dumps(value, ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:
                self._faults.append(("half of a surrogate pair (\\ud800 to \\udfff) cannot be encoded", ""))
        return value, (self._faults[0] if self._faults else None), end

    def all_values(self) -> list[tuple[int, Any, Fault | None]]:
        """(position, value, fault) of each value, only white space between them. Raises as `value` does."""
        values, position = [], self.skip_space(0)
        while position < len(self.text):
            value, fault, end = self.value(position)
            values.append((position, value, fault))
            position = self.skip_space(end)
        return values

    def skip_space(self, position: int) -> int:
        """The first position from `position` on that is not white space."""
        return _SPACE.match(self.text, position).end()

    def locate(self, position: int) -> None:
        """Set line and column to those of `position`, which must not lie before the one located last.

        column stays None for what comes first on its line: the line alone tells where it is.
        """
        breaks = self.text.count("\n", self._counted, position)
        if breaks:
            self._line_start = self.text.rfind("\n", 0, position) + 1
        self.line += breaks
        self.column = position - self._line_start + 1 if self.line == self._line_before else None
        self._counted, self._line_before = position, self.line

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))
            self._faults.append(
                ("a key stands twice in one object", double.encode("utf-8", "backslashreplace").decode())
            )
        return result

    def _constant(self, name: str) -> None:
        self._faults.append((f"{name} is not a JSON number", ""))

    def _float(self, digits: str) -> float:
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            self._faults.append(("a number is too large", digits[:40]))
        return number


def describe(error: ValueError | RecursionError, with_line: bool = False) -> str:
    """What a decoder's error says, in a few words: "Expecting ',' at column 17"."""
    if isinstance(error, json.JSONDecodeError):
        where = f"line {error.lineno} column {error.colno}" if with_line else f"column {error.colno}"
        return f"{error.msg.removesuffix(' at').removesuffix(' delimiter')} at {where}"
    return "nested too deeply" if isinstance(error, RecursionError) else "an integer has too many digits"
