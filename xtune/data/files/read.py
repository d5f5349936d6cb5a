"""From whatever is named, a file, a directory or a dataset of the hub, to its records.

What a file is, its first bytes tell; only among kinds of text does the name decide.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain

from xtune.data.files.columnar import columnar_records, kind_of
from xtune.data.files.csv_records import csv_records
from xtune.data.files.directory import directory_files
from xtune.data.files.hub import hub_records, is_hub_dataset
from xtune.data.files.json_records import json_records
from xtune.data.files.open_file import open_file, packing_of, read_chunks, refuse_other_kinds
from xtune.data.files.record import Record
from xtune.data.files.text import check_encoding, decode_pieces, split_lines
from xtune.errors import DataError

# How many lines (blank ones apart), and at most how much text, are looked at to tell what a text is.
HEAD_LINES = 10
HEAD_LENGTH = 1 << 22

# Text is JSON under names of other kinds only if it begins with an object.
_OBJECT = re.compile(r'[\s\[]*\{\s*("(?:[^"\\]|\\.)*"\s*:|\})')


def read_records(
    path: str | os.PathLike[str], *, split: str | None = None, encoding: str | None = None
) -> Iterator[Record]:
    """Yield the records of a file, of all files of a directory, or of a dataset on the hub, in order.

    path      a file of JSON, JSON Lines, CSV, TSV, text (a row {"text": ...} for each line), Parquet or Arrow,
              plain or packed with gzip, bzip2, xz or zstd; a directory of such (a .txt is one row there); a
              directory written by datasets' save_to_disk; owner/name on the hub
    split     which split of a directory or hub dataset
    encoding  of text; None for UTF-8

    Memory does not grow with the file. Raises DataError, while iterating, if something cannot be opened, is of
    no known kind, is damaged, has another encoding or holds no record; UsageError for an unknown encoding.
    """
    name = os.fspath(path)
    if encoding is not None:
        check_encoding(encoding)
    if is_hub_dataset(name):
        records = hub_records(name, split)
    elif os.path.isdir(name):
        files = directory_files(name, split)
        records = chain.from_iterable(_from_file(file, encoding, in_directory=True) for file in files)
    elif split is not None and os.path.exists(name):
        raise DataError("A file has no splits.", where=name, fix="leave out the split, or name a directory")
    else:
        records = _from_file(name, encoding)
    empty = True
    for record in records:
        empty = False
        yield record
    if empty:
        raise DataError(
            "This is empty: it holds no record.",
            where=name,
            fix="check that it was written or downloaded whole",
        )


def data_files(path: str | os.PathLike[str], split: str | None = None) -> list[str]:
    """The files on disk that decide what read_records gives, sorted; none for a dataset of the hub.

    Raises DataError as read_records does for a directory.
    """
    name = os.fspath(path)
    if is_hub_dataset(name):
        return []
    return sorted(directory_files(name, split, notes=True)) if os.path.isdir(name) else [name]


def _from_file(path: str, encoding: str | None, in_directory: bool = False) -> Iterator[Record]:
    name = path.encode("utf-8", "backslashreplace").decode()  # Linux takes any bytes for a name
    with open_file(path, name) as file:
        start = file.read(512)
        file.seek(0)
        packing = packing_of(start)
        refuse_other_kinds(start, name)
        if kind := kind_of(start):
            yield from columnar_records(path, kind, name)
            return
        chunks = read_chunks(file, packing, name)
        if packing:
            first = next(chunks, b"")
            refuse_other_kinds(first[:512], name, packing)
            chunks = chain([first], chunks) if first else chunks
        yield from _from_text(decode_pieces(chunks, name, encoding), name, in_directory)


def _from_text(pieces: Iterator[str], name: str, in_directory: bool) -> Iterator[Record]:
    held, head = _head(pieces)
    if not head:
        return
    pieces = chain(held, pieces)
    stem, suffix = os.path.splitext(name.lower())
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        suffix = os.path.splitext(stem)[1]
    if suffix != ".txt" and head[0].lower().startswith(("<!doctype", "<html")):
        raise DataError("This is a web page.", where=name, fix="download the file itself, by its raw address")
    other = suffix in (".txt", ".csv", ".tsv")
    if _OBJECT.match("\n".join(head)) if other else any(line.startswith(("{", "[")) for line in head):
        yield from json_records(pieces, head, name)
    elif suffix == ".txt":
        yield from _from_plain_text(pieces, name, whole=in_directory)
    elif other:
        yield from csv_records(pieces, head, name, default="\t" if suffix == ".tsv" else ",")
    else:
        raise DataError(
            f"This is not JSON: it starts with {head[0][:40]!r}.",
            where=name,
            fix="give JSON objects: one a line (.jsonl) or in a list (.json); name other text .csv, .tsv or .txt",
        )


def _head(pieces: Iterator[str]) -> tuple[list[str], list[str]]:
    """The pieces read for it, and the first lines that are not blank: whole, unless there is only one; stripped."""
    held: list[str] = []
    length = 0

    def lines() -> list[str]:
        return [text for _, line in split_lines(held) if (text := line.strip(" \t\r\n"))]

    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if "\n" in piece or length >= HEAD_LENGTH:
            found = lines()
            if len(found) > HEAD_LINES or (found and length >= HEAD_LENGTH):
                return held, found[:-1][:HEAD_LINES] or found
    return held, lines()[:HEAD_LINES]


def _from_plain_text(pieces: Iterator[str], name: str, whole: bool) -> Iterator[Record]:
    if whole:
        yield Record(1, None, {"text": "".join(pieces)}, None, "", name)
        return
    for number, line in split_lines(pieces):
        if line.strip():
            yield Record(number, None, {"text": line.removesuffix("\r")}, None, "", name)
