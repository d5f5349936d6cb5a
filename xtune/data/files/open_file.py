"""Opens a file, packed or not, and says what it is where it holds no rows that can be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

from xtune.errors import DataError

PACKINGS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of files that hold another one, packed."""

_CHUNK = 1 << 18

_UNPACK = "unpack it and give the files in it"
_EXPORT = "write its rows as CSV, JSON Lines or Parquet first"
# What people give instead of data: first bytes, what it is, what to do.
_REFUSED = [
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a", "a rar archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word file", "save the table as CSV UTF-8"),
    (b"%PDF-", "a PDF", "extract its text into a .txt file"),
    (b"\x89PNG", "a PNG image", "give a file of text: images cannot be trained on"),
    (b"\xff\xd8\xff", "a JPEG image", "give a file of text: images cannot be trained on"),
    (b"GIF8", "a GIF image", "give a file of text: images cannot be trained on"),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"FEA1", "a file of the old Feather format", _EXPORT),
    (b"GGUF\x03", "a model (GGUF)", "give a file of rows"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the data itself", "fetch the data: git lfs pull"),
] + [
    (bytes([0x80, protocol]), "a pickle", _EXPORT + ", with the program that made it")
    for protocol in range(2, 6)
]


def open_file(path: str, name: str) -> BinaryIO:
    """Open a regular file in bytes. Raises DataError, calling it `name`, where that cannot be."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise DataError(
                f"This is {'a pipe' if stat.S_ISFIFO(mode) else 'a device'}, not a file.",
                where=name,
                fix="write what comes out of it to a file, and give that",
            )
        return open(path, "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("No such file.", where=name, fix="check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The file cannot be read: {reason}.", where=name, fix="check the path and its rights"
        ) from None


def packing_of(start: bytes) -> str | None:
    """How a file with these first bytes is packed."""
    return next((packing for magic, packing in PACKINGS.items() if start.startswith(magic)), None)


def refuse_other_kinds(start: bytes, name: str, packing: str | None = None) -> None:
    """Raises DataError if these are the first bytes of a file that is neither text nor a table of rows."""
    inside = f" inside {packing}" if packing else ""
    if start[257:262] == b"ustar":
        raise DataError(f"This is a tar archive{inside}.", where=name, fix=_UNPACK)
    for magic, what, fix in _REFUSED:
        if start.startswith(magic):
            if magic == b"PK\x03\x04" and name.lower().endswith((".xlsx", ".xlsm")):
                what, fix = "an Excel file", "save the table as CSV UTF-8"
            elif magic == b"PK\x03\x04" and name.lower().endswith((".pt", ".pth", ".bin")):
                what, fix = "a file of PyTorch", _EXPORT
            raise DataError(f"This is {what}{inside}.", where=name, fix=fix)
    if packing and (packing_of(start) or start.startswith((b"PAR1", b"ARROW1"))):
        raise DataError(f"This is packed twice: in {packing} too.", where=name, fix="unpack it once")


def read_chunks(file: BinaryIO, packing: str | None, name: str) -> Iterator[bytes]:
    """Yield the file's bytes, unpacked. Raises DataError where a packed file is damaged or cut off."""
    if packing is None:
        while chunk := file.read(_CHUNK):
            yield chunk
        return
    try:
        unpacked = _unpack(file, packing)
        while chunk := unpacked.read(_CHUNK):
            yield chunk
    except Exception as error:  # each unpacker has its own classes
        raise DataError(
            f"The {packing} file is cut off or damaged: {error or 'no reason known'}.",
            where=name,
            fix="download or pack it again",
        ) from None


def _unpack(file: BinaryIO, packing: str) -> BinaryIO:
    if packing == "gzip":
        import gzip

        return gzip.GzipFile(fileobj=file)
    if packing == "bzip2":
        import bz2

        return bz2.BZ2File(file)
    if packing == "xz":
        import lzma

        return lzma.LZMAFile(file)
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")
