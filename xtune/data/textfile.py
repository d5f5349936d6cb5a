"""Opens a text file and decodes it as UTF-8; says what the file is instead where it is something else."""

from __future__ import annotations

import codecs
import io
import os

from xtune.errors import DataError

# First bytes of what people give instead of text.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"PAR1": "Parquet",
}
_CHINESE = (range(0x3000, 0x3040), range(0x4E00, 0xA000), range(0xFF00, 0xFFF0))


def open_text_file(name: str) -> io.BufferedReader:
    """Open a file for reading, in bytes. Raises DataError if that cannot be, or if it is no UTF-8 text."""
    if os.path.isdir(name):
        raise DataError(
            "This is a directory, not a file.", where=name, fix="name one .json or .jsonl file in it"
        )
    try:
        file = open(name, "rb")  # noqa: SIM115 - the caller closes it
        start = file.read(4)
        file.seek(0)
    except FileNotFoundError:
        raise DataError("No such file.", where=name, fix="check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The file cannot be read: {reason}.", where=name, fix="check the path and its rights"
        ) from None
    if start.startswith(codecs.BOM_UTF8):
        return file
    kind = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    if kind:
        file.close()
        raise DataError(
            f"This is a {kind} file, not text.", where=name, fix="write it as plain .json or .jsonl first"
        )
    # A text that starts with a brace has no NUL byte in UTF-8; in UTF-16 every second byte is one.
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
        file.close()
        raise _not_utf8(name, "UTF-16", 0, 1)
    return file


def decode(data: bytes, name: str, *, line: int, offset: int = 0) -> str:
    """Decode a piece of the file that starts at this line and byte, without a byte order mark at its start.

    Raises DataError with byte, line and a guess at the encoding if it is not UTF-8.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise _not_utf8(name, _guess_encoding(data, error.start), offset + error.start, line) from None


def _guess_encoding(data: bytes, bad: int) -> str:
    start = data.rfind(b"\n", 0, bad) + 1
    for after in range(64, 58, -1):  # the end of the piece may cut a character in two
        try:
            text = data[start : bad + after].decode("gb18030")
        except UnicodeDecodeError:
            continue
        letters = [ord(letter) for letter in text if ord(letter) > 127]
        if 2 * sum(any(code in block for block in _CHINESE) for code in letters) > len(letters):
            return "GB18030"
    return "CP1252"


def _not_utf8(name: str, guess: str, byte: int, line: int) -> DataError:
    return DataError(
        f"This is not UTF-8 (byte {byte}, line {line}); it looks like {guess}.",
        where=f"{name}:{line}",
        fix=f'convert it: iconv -f {guess} -t UTF-8 "{name}" > utf8.jsonl',
    )
