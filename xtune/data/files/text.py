"""Decodes a file's bytes piece by piece, and says what the encoding is where it is not the one expected."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from contextlib import suppress

from xtune.errors import DataError, UsageError

_CHINESE = (range(0x3000, 0x3040), range(0x4E00, 0xA000), range(0xFF00, 0xFFF0))


def check_encoding(encoding: str) -> None:
    """Raises UsageError if Python has no text encoding of this name."""
    try:
        codecs.getincrementaldecoder(encoding)()
        b"a".decode(encoding)
    except UnicodeError:
        pass  # "a" alone is not whole in UTF-16
    except (LookupError, ValueError, TypeError):
        raise UsageError(
            f"There is no encoding {encoding!r}.", fix="name one such as utf-8, gb18030, utf-16 or cp1252"
        ) from None


def decode_pieces(chunks: Iterable[bytes], name: str, encoding: str | None) -> Iterator[str]:
    """Yield the text of a file, cut anywhere, without a byte order mark at its start; no piece is empty.

    encoding  its name; None for UTF-8

    Raises DataError with byte, line and a guess at the encoding where it is another one, after the text before
    that place.
    """
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    bytes_read, line, start = 0, 1, True
    for chunk in _checked(chunks, name, encoding):
        before = decoder.getstate()
        bytes_read += len(chunk)
        text, bad = "", None
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            bad = error
            decoder.setstate(before)
            # The decoder had held back the first bytes of a character: error.object starts with those.
            good = max(0, error.start - (len(error.object) - len(chunk)))
            with suppress(UnicodeError):  # as below
                text = decoder.decode(chunk[:good])
        except UnicodeError:  # UTF-16 and UTF-32 without their mark
            raise _wrong_encoding(name, encoding, "", bytes_read - len(chunk), line) from None
        if start and text:
            text, start = text.removeprefix("\ufeff"), False
        if text:
            yield text
            line += text.count("\n")
        if bad:
            byte = bytes_read - len(bad.object) + bad.start
            if not chunk:
                raise DataError(
                    f"The file ends in the middle of a character (byte {byte}, line {line}).",
                    where=f"{name}:{line}",
                    fix="download or copy it again, whole",
                )
            if encoding is None and b"\0" in bad.object:
                raise _no_text(name)
            raise _wrong_encoding(name, encoding, _guess_encoding(bad.object, bad.start), byte, line)


def split_lines(pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    r"""(1-based number, text without its "\n") of each line.

    Split at "\n" alone: str.splitlines also splits at U+2028 and U+0085, which JSON allows inside strings.
    """
    number, begun = 1, []
    for piece in pieces:
        first, *others = piece.split("\n")
        begun.append(first)
        if others:
            yield number, "".join(begun)
            for number, line in enumerate(others[:-1], start=number + 1):  # noqa: B020
                yield number, line
            number += 1
            begun = [others[-1]]
    if last := "".join(begun):
        yield number, last


def _checked(chunks: Iterable[bytes], name: str, encoding: str | None) -> Iterator[bytes]:
    """The chunks, and an empty one at their end, once the first does not look like UTF-16 or no text at all."""
    first = True
    for chunk in chunks:
        if first and encoding is None:
            _refuse_wide(chunk[:4], name)
        first = False
        yield chunk
    yield b""


def _refuse_wide(start: bytes, name: str) -> None:
    # A text that starts with ASCII has no NUL byte in UTF-8; in UTF-16 every second byte is one.
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _wrong_encoding(name, None, "utf-16", 0, 1)
    zeros = [index for index, byte in enumerate(start) if not byte]
    if zeros in ([1, 3], [1], [0, 2], [0]):
        raise _wrong_encoding(name, None, "utf-16-le" if zeros[0] else "utf-16-be", zeros[0], 1)
    if zeros:
        raise _no_text(name)


def _no_text(name: str) -> DataError:
    return DataError(
        "This is neither text nor a kind of file that can be read.",
        where=name,
        fix="give JSON, JSON Lines, CSV, TSV, text, Parquet or Arrow",
    )


def _guess_encoding(data: bytes, bad: int) -> str:
    start = data.rfind(b"\n", 0, bad) + 1
    for after in range(64, 58, -1):  # the end of the piece may cut a character in two
        try:
            text = data[start : bad + after].decode("gb18030")
        except UnicodeDecodeError:
            continue
        letters = [ord(letter) for letter in text if ord(letter) > 127]
        if 2 * sum(any(code in block for block in _CHINESE) for code in letters) > len(letters):
            return "gb18030"
    return "cp1252"


def _wrong_encoding(name: str, encoding: str | None, guess: str, byte: int, line: int) -> DataError:
    if encoding:
        fix = f'name another encoding than "{encoding}" in the source, or none for UTF-8'
        return DataError(
            f"This is not {encoding} (byte {byte}, line {line}).", where=f"{name}:{line}", fix=fix
        )
    return DataError(
        f"This is not UTF-8 (byte {byte}, line {line}); it looks like {guess.upper()}.",
        where=f"{name}:{line}",
        fix=f'set encoding = "{guess}" in the source (or --encoding {guess})',
    )
