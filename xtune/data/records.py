"""Reads the JSON values out of a file, whatever its name.

JSON Lines, a JSON list, {"data": [...]}, or objects written one after the other. Each top-level value is one
row; a list stands for its elements, unless it is a conversation (a list of messages), which is a row itself.
What is broken becomes a record with a fault, so that nothing is lost unseen.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from xtune.data.strict_json import Decoder, Fault, describe
from xtune.data.textfile import decode, open_text_file
from xtune.errors import DataError

# How many lines (blank ones apart) are looked at to tell JSON Lines from one document.
HEAD_LINES = 10

# {"data": [ {, perhaps after a few plain values such as a version. UltraChat's rows have a "data" column too,
# but of strings.
_DATA_LIST = re.compile(
    r'\{\s*(?:"[^"\\]*"\s*:\s*(?:"[^"\\]*"|-?[\d.]+|true|false|null)\s*,\s*)*"data"\s*:\s*(?=\[\s*[{\[\]])'
)


@dataclass(frozen=True)
class Record:
    """One row of a file, or the fault that stands in its place.

    line    1-based line on which the record starts
    column  1-based column where it starts, if another record starts before it on the same line; else None
    row     any JSON value; None where there is a fault
    fault   why there is no row, in the same words for the same kind of fault, so that they can be counted
    detail  what is particular to this one, such as the column of the fault
    """

    line: int
    column: int | None = None
    row: Any = None
    fault: str | None = None
    detail: str = ""


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield the records of a file in order; JSON Lines in constant memory, anything else read whole.

    Raises DataError, while iterating, if the file cannot be opened, is not UTF-8, is not JSON, or holds no
    record.
    """
    name = os.fspath(path)
    with open_text_file(name) as file:
        head = list(_lines(file, name, limit=HEAD_LINES))
        if not head:
            raise DataError(
                "The file is empty.", where=name, fix="check that it was written or downloaded whole"
            )
        if not any(text.startswith(("{", "[")) for _, text in head):
            raise DataError(
                f"This is not JSON: it starts with {head[0][1][:40]!r}.",
                where=f"{name}:{head[0][0]}",
                fix="give a file of JSON objects: one per line (.jsonl), or in a list (.json)",
            )
        file.seek(0)
        if _is_json_lines(head):
            yield from _from_lines(_lines(file, name))
            return
        empty = True
        for record in _from_document(decode(file.read(), name, line=1)):
            empty = False
            yield record
        if empty:
            raise DataError("The file holds no record.", where=name, fix="check that it was written whole")


def _lines(file: BinaryIO, name: str, limit: int | None = None) -> Iterator[tuple[int, str]]:
    """(line number, text without white space around it) of the lines that are not blank."""
    # Split at b"\n" alone: str.splitlines also splits at U+2028 and U+0085, which JSON allows inside strings.
    found = offset = 0
    for number, line in enumerate(file, start=1):
        text = decode(line, name, line=number, offset=offset).strip(" \t\r\n")
        offset += len(line)
        if text:
            yield number, text
            found += 1
            if found == limit:
                return


def _is_json_lines(head: list[tuple[int, str]]) -> bool:
    if len(head) == 1:  # one line says nothing; read as a document it gives the same records
        return False
    before = ""
    for _, text in head:
        # After a line that ends in one of these, a value belongs to a list or object that is still open.
        if text.startswith(("{", "[")) and not before.endswith(("[", "{", ",", ":")):
            try:
                Decoder(text).all_values()
                return True
            except (ValueError, RecursionError):
                pass
        before = text
    return False


def _from_lines(lines: Iterator[tuple[int, str]]) -> Iterator[Record]:
    for number, text in lines:
        try:
            values = Decoder(text).all_values()
        except (ValueError, RecursionError) as error:
            yield Record(number, fault="not JSON", detail=describe(error))
            continue
        _, value, fault = values[0]
        if len(values) > 1 or (isinstance(value, list) and value and not _is_conversation(value)):
            yield from (replace(record, line=number) for record in _from_document(text))
        else:
            yield _record(number, None, value, fault)


def _from_document(text: str) -> Iterator[Record]:
    decoder = Decoder(text)
    try:
        position = decoder.skip_space(0)
        if wrapped := _DATA_LIST.match(text, position):
            position = yield from _elements(decoder, wrapped.end())
            _check_rest_of_object(decoder, position)
            return
        while position < len(text):
            if text[position] == "[" and not _is_conversation_at(decoder, position):
                position = yield from _elements(decoder, position)
            else:
                position = yield from _value(decoder, position)
            position = decoder.skip_space(position)
    except (ValueError, RecursionError) as error:
        yield _break(decoder, error)


def _value(decoder: Decoder, position: int) -> Iterator[Record]:
    """Yield the value at `position` as a record; returns the position after it."""
    decoder.locate(position)
    row, fault, end = decoder.value(position)
    yield _record(decoder.line, decoder.column, row, fault)
    return end


def _elements(decoder: Decoder, position: int) -> Iterator[Record]:
    """Yield the elements of the list that starts at `position`; returns the position after it."""
    text = decoder.text
    position = decoder.skip_space(position + 1)
    if text.startswith("]", position):
        return position + 1
    while True:
        end = yield from _value(decoder, position)
        position = decoder.skip_space(end)
        if text.startswith("]", position):
            return position + 1
        if not text.startswith(",", position):
            decoder.locate(end)
            raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        position = decoder.skip_space(position + 1)


def _check_rest_of_object(decoder: Decoder, position: int) -> None:
    # What stands beside "data" is not data, but if it is broken the file may have been cut off.
    decoder.locate(position)
    text = decoder.text
    position = decoder.skip_space(position)
    rest = position + text.startswith(",", position)
    try:
        end = rest - 1 + Decoder("{" + text[rest:]).value(0)[2]
    except json.JSONDecodeError as error:
        raise json.JSONDecodeError(error.msg, text, rest - 1 + error.pos) from None
    if decoder.skip_space(end) < len(text):
        raise json.JSONDecodeError("Extra data", text, decoder.skip_space(end))


def _record(line: int, column: int | None, row: Any, fault: Fault | None) -> Record:
    return Record(line, column, None, *fault) if fault else Record(line, column, row)


def _break(decoder: Decoder, error: ValueError | RecursionError) -> Record:
    """The record at which a document stops being JSON: after it records cannot be told apart any more."""
    line, column, text = decoder.line, decoder.column, decoder.text.rstrip()
    # The end may cut through a literal or an escape; the error then stands a few characters before it.
    at_end = isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string")
        or error.pos >= len(text)
        or (error.pos > len(text) - 6 and not text.endswith(("]", "}")))
    )
    if at_end:
        return Record(line, column, fault="the file is cut off here", detail=describe(error, with_line=True))
    last = text.count("\n") + 1
    lost = f"; nothing after it was read (to line {last})" if last > line else ""
    return Record(line, column, fault="not JSON", detail=describe(error, with_line=True) + lost)


def _is_conversation(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], dict) and {"role", "content"} <= value[0].keys()


def _is_conversation_at(decoder: Decoder, position: int) -> bool:
    """Whether the list at `position` is a conversation; told from its first element."""
    first = decoder.skip_space(position + 1)
    if not decoder.text.startswith("{", first):
        return False
    try:
        return _is_conversation([decoder.value(first)[0]])
    except (ValueError, RecursionError):
        return False
