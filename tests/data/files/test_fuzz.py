"""Whatever bytes a file holds, under whatever name, they give records or a DataError."""

import json
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.files.test_kinds import COLUMNAR, LINES, PACK, ROWS
from xtune.data.files import Record, read_records
from xtune.errors import DataError

CALL = {"calls": [{"name": "f", "arguments": {"city": "Rome"}}], "n": 1.5, "ok": True}
TABLE = pa.Table.from_pylist([ROWS[0] | CALL, ROWS[1]] * 2)
SOUND = {
    "file.jsonl": LINES,
    "file.json": json.dumps({"v": 1, "data": [*ROWS, CALL]}, indent=1).encode(),
    "file.csv": b'a,b\n"x\ny",2\n,\n"","3"\n',
    "file.txt": "one\n\ntwo 你好\n".encode(),
    **{f"file.jsonl.{pack}": write(LINES) for pack, write in PACK.items()},
    **{f"file{n}": write(TABLE) for n, write in enumerate(COLUMNAR)},
}


@st.composite
def damaged(draw):
    """A name, and a file of its kind that was cut, changed in a few bytes, or both."""
    name = draw(st.sampled_from(sorted(SOUND)))
    content = bytearray(SOUND[name])
    for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = draw(st.integers(0, 255))
    return name, bytes(content[: draw(st.integers(0, len(content)) | st.just(len(content)))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check(path, **options):
    with suppress(DataError):
        for record in read_records(path, **options):
            assert isinstance(record, Record)
            assert record.line > 0
            assert record.place.startswith(str(path))
            json.dumps(record.row)


@given(damaged(), st.sampled_from([None, "gb18030", "utf-16"]))
def test_damaged_files(folder, file, encoding):
    name, content = file
    (folder / name).write_bytes(content)
    check(folder / name, encoding=encoding)


@given(
    st.binary(), st.sampled_from([b"", b"{", b"[{", b"\x1f\x8b", b"PAR1", b"ARROW1\0\0", b"\xff\xff\xff\xff"])
)
def test_random_bytes(folder, content, start):
    for name in ("random", "random.csv", "random.txt"):
        (folder / name).write_bytes(start + content)
        check(folder / name)
