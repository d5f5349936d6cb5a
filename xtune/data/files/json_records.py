"""Reads the JSON values out of text, whatever the file's name.

JSON Lines, a JSON list, {"data": [...]}, or objects written one after the other. Each top-level value is one
row; a list stands for its elements, unless it is a conversation (a list of messages), which is a row itself.
What is broken becomes a record with a fault, so that nothing is lost unseen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from xtune.data.files.json_window import Window
from xtune.data.files.record import Record
from xtune.data.files.text import split_lines
from xtune.strict_json import SPACE, describe, read_value, read_values

# {"data": [ {, perhaps after a few plain values such as a version. UltraChat's rows have a "data" column too,
# but of strings.
_DATA_LIST = re.compile(
    r'\{\s*(?:"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?[\d.]+|true|false|null)\s*,\s*)*"data"\s*:\s*(?=\[\s*[{\[\]])'
)
# How much text is looked at for it.
_WRAPPING = 1 << 16


def json_records(pieces: Iterable[str], head: list[str], name: str) -> Iterator[Record]:
    """Yield the records of a JSON text in order, in constant memory.

    pieces  the text, cut anywhere
    head    its first lines that are not blank, whole and without white space around them
    """
    if _is_json_lines(head):
        return _from_lines(pieces, name)
    return _from_document(pieces, name)


def _is_json_lines(head: list[str]) -> bool:
    if len(head) == 1:  # one line says nothing; read as a document it gives the same records
        return False
    before = ""
    for text in head:
        # After a line that ends in one of these, a value belongs to a list or object that is still open.
        if text.startswith(("{", "[")) and not before.endswith(("[", "{", ",", ":")):
            try:
                read_values(text)
                return True
            except (ValueError, RecursionError):
                pass
        before = text
    return False


def _from_lines(pieces: Iterable[str], name: str) -> Iterator[Record]:
    for number, line in split_lines(pieces):
        text = line.strip(" \t\r\n")
        if not text:
            continue
        try:
            value, fault, end = read_value(text)
            several = end < len(text)
            if several:
                read_values(text)  # so that a broken line is one record, not what comes before the break too
        except (ValueError, RecursionError) as error:
            yield Record(number, None, None, "not JSON", describe(error), name)
            continue
        if several or (isinstance(value, list) and value and not _is_conversation(value)):
            yield from (replace(record, line=number) for record in _from_document([text], name))
        elif fault:
            yield Record(number, None, None, *fault, name)
        else:
            yield Record(number, None, value, None, "", name)


def _from_document(pieces: Iterable[str], name: str) -> Iterator[Record]:
    window = Window(pieces)
    try:
        window.position = window.ahead()
        while window.text.startswith("{", window.position) and len(window.text) < _WRAPPING and window.more():
            pass
        if wrapped := _DATA_LIST.match(window.text, window.position):
            window.position = wrapped.end()
            yield from _elements(window, name)
            _check_rest_of_object(window)
            return
        while (start := window.ahead()) < len(window.text):
            window.position = start
            if window.text[start] == "[" and not _is_conversation_next(window):
                yield from _elements(window, name)
            else:
                yield _value(window, name)
    except (ValueError, RecursionError) as error:
        yield _break(window, error, name)


def _value(window: Window, name: str) -> Record:
    window.locate()
    row, fault = window.value()
    if fault:
        return Record(window.line, window.column, None, *fault, name)
    return Record(window.line, window.column, row, None, "", name)


def _elements(window: Window, name: str) -> Iterator[Record]:
    """Yield the elements of the list that starts at the window's position, and step over it."""
    window.position += 1
    start = window.ahead()
    if window.text.startswith("]", start):
        window.position = start + 1
        return
    while True:
        window.position = window.ahead()
        yield _value(window, name)
        if _step_over(window, ",]") == "]":
            return


def _step_over(window: Window, marks: str) -> str:
    """Step over white space and one of these marks, which must come next; returns it."""
    index = window.ahead()
    mark = window.text[index : index + 1]
    if not mark or mark not in marks:
        window.locate()  # what is wrong starts behind the value before it
        window.fail(f"Expecting '{marks[0]}' delimiter", index)
    window.position = index + 1
    return mark


def _check_rest_of_object(window: Window) -> None:
    # What stands beside "data" is not data, but if it is broken the file may have been cut off.
    window.locate()
    while _step_over(window, ",}") == ",":
        window.position = window.ahead()
        if not window.text.startswith('"', window.position):
            window.fail("Expecting property name enclosed in double quotes", window.position)
        window.value()
        _step_over(window, ":")
        window.position = window.ahead()
        window.value()
    if (extra := window.ahead()) < len(window.text):
        window.fail("Extra data", extra)


def _break(window: Window, error: ValueError | RecursionError, name: str) -> Record:
    """The record at which a document stops being JSON: after it records cannot be told apart any more."""
    line, column, text = window.line, window.column, window.text.rstrip()
    where = "line {} column {}".format(*window.place(error.pos)) if hasattr(error, "pos") else None
    goes_on, last = window.read_out()
    # The end may cut through a literal or an escape; the error then stands a few characters before it.
    at_end = (
        isinstance(error, json.JSONDecodeError)
        and not goes_on
        and (
            error.msg.startswith("Unterminated string")
            or error.pos >= len(text)
            or (error.pos > len(text) - 6 and not text.endswith(("]", "}")))
        )
    )
    if at_end:
        return Record(line, column, None, "the file is cut off here", describe(error, where), name)
    lost = f"; nothing after it was read (to line {last})" if last > line else ""
    return Record(line, column, None, "not JSON", describe(error, where) + lost, name)


def _is_conversation(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict) and {"role", "content"} <= value[0].keys()


def _is_conversation_next(window: Window) -> bool:
    """Whether the list at the window's position is a conversation; told from its first element."""
    while True:
        first = SPACE.match(window.text, window.position + 1).end()
        if not window.text.startswith("{", first) and first < len(window.text):
            return False
        try:
            return _is_conversation([read_value(window.text, first)[0]])
        except json.JSONDecodeError as error:
            if not window.may_be_cut(error) or not window.more():
                return False
        except (ValueError, RecursionError):
            return False
