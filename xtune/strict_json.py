"""Decodes JSON as the standard has it: what Python's json lets pass is found and told."""

from __future__ import annotations

import json
import re
from typing import Any

SPACE = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Fault = tuple[str, str]
"""What is wrong with a value: the kind, and what is particular to this case."""


class _Suspicious(Exception):
    """Raised where the quick decoder meets what is a fault."""


def read_value(text: str, position: int = 0) -> tuple[Any, Fault | None, int]:
    """The JSON value at `position`, its fault if any, and the position after it.

    A fault is what Python's json takes but JSON does not allow, or what it silently drops; the value after it
    can still be read. Raises ValueError (JSONDecodeError where the place is known) or RecursionError.
    """
    try:
        value, end = _QUICK.raw_decode(text, position)
    except _Suspicious:
        return _read_with_fault(text, position)
    # UTF-8 cannot hold half of a surrogate pair, so it can only come from an escape.
    if _SURROGATE.search(text, position, end):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return value, ("half of a surrogate pair (\\ud800 to \\udfff) cannot be encoded", ""), end
    return value, None, end


def read_values(text: str) -> list[tuple[Any, Fault | None]]:
    """Every value of `text` with its fault, only white space between them. Raises as `read_value` does."""
    values, position = [], SPACE.match(text).end()
    while position < len(text):
        value, fault, end = read_value(text, position)
        values.append((value, fault))
        position = SPACE.match(text, end).end()
    return values


def describe(error: ValueError | RecursionError, where: str | None = None) -> str:
    """What an error says, in a few words: "Expecting ',' at column 17"; `where` takes the column's place."""
    if isinstance(error, json.JSONDecodeError):
        said = error.msg.removesuffix(" at").removesuffix(" delimiter")
        return f"{said} at {where or f'column {error.colno}'}"
    return "nested too deeply" if isinstance(error, RecursionError) else "an integer has too many digits"


def _read_with_fault(text: str, position: int) -> tuple[Any, Fault, int]:
    faults: list[Fault] = []

    def note_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                shown = key.encode("utf-8", "backslashreplace").decode()
                faults.append(("a key stands twice in one object", shown))
            seen.add(key)
        return dict(pairs)

    def note_constant(name: str) -> None:
        faults.append((f"{name} is not a JSON number", ""))

    def note_float(digits: str) -> float:
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            faults.append(("a number is too large", digits[:40]))
        return number

    noting = json.JSONDecoder(
        object_pairs_hook=note_object, parse_constant=note_constant, parse_float=note_float
    )
    value, end = noting.raw_decode(text, position)
    return value, faults[0], end


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise _Suspicious
    return result


def _constant(_: str) -> None:
    raise _Suspicious


def _float(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _Suspicious
    return number


# One decoder for all: it keeps no state, and making one takes as long as reading a row with it.
_QUICK = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
