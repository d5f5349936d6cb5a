"""Every kind of file gives the rows that were written, as text where the file has text."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.files import read_records
from xtune.errors import DataError

ROWS = [{"question": "1 + 1", "answer": "2"}, {"question": "你好\u2028", "answer": ""}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data):
    with pa.CompressedOutputStream(sink := pa.BufferOutputStream(), "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def parquet(table):
    pq.write_table(table, sink := pa.BufferOutputStream(), row_group_size=2)
    return sink.getvalue().to_pybytes()


def arrow(table, new=pa.ipc.new_stream):
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
COLUMNAR = [parquet, arrow, lambda table: arrow(table, pa.ipc.new_file)]


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")

    def read(content, name="file", **options):
        (folder / name).write_bytes(content)
        return list(read_records(folder / name, **options))

    return read


def rows(records):
    return [record.fault or record.row for record in records]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=5)


@given(st.lists(st.tuples(CELL, CELL), min_size=1), st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]))
def test_cells_of_a_table_are_the_text_that_was_written(read, cells, delimiter, newline):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=newline).writerows([("a", "b"), *cells])
    records = read(b"\xef\xbb\xbf" + file.getvalue().encode(), "file.csv")
    assert rows(records) == [{"a": a, "b": b} for a, b in cells]
    assert [record.line for record in records] == [
        2 + sum(1 + (a + b).count("\n") for a, b in cells[:index]) for index in range(len(cells))
    ]


def test_numbers_stay_text_and_empty_cells_are_empty(read):
    table = b"id,text\n00000,3.3\nNA,\n"
    assert rows(read(table, "t.csv")) == [{"id": "00000", "text": "3.3"}, {"id": "NA", "text": ""}]
    assert rows(read(table.replace(b",", b"\t"), "t.tsv")) == rows(read(table, "t.csv"))
    assert rows(read(b'text\n""\n\nx\n', "t.csv")) == [{"text": ""}, {"text": "x"}]
    assert rows(read(b",text\n0,x\n", "t.csv")) == [{"column 1": "0", "text": "x"}]


def test_a_broken_row_of_a_table_is_a_fault_at_its_line(read):
    records = read(b'a,b\n1,2,3\n"x\ny",2\n"x"y,2\n1\n3,4\n"5,6\n7,8\n', "t.csv")
    assert [(record.line, record.fault or record.row) for record in records] == [
        (2, "the row has too many cells"),
        (3, {"a": "x\ny", "b": "2"}),
        (5, "not CSV"),
        (6, "the row has too few cells"),
        (7, {"a": "3", "b": "4"}),
        (8, "the file is cut off here"),
    ]
    assert records[-1].detail == "a quotation mark is never closed; it goes to line 9"
    for table, says in ((b"a,b,a\n1,2,3", "2 columns have the name 'a'"), (b'"a"b\n1', "names no columns")):
        with pytest.raises(DataError, match=says):
            read(table, "t.csv")


def test_text_is_a_row_a_line(read):
    records = read("one \r\n\n[two]\u2028\n{three".encode(), "t.txt")
    assert [(record.line, record.row["text"]) for record in records] == [
        (1, "one "),
        (3, "[two]\u2028"),
        (4, "{three"),
    ]
    assert rows(read(LINES, "t.txt")) == ROWS  # JSON whatever the name
    assert rows(read(LINES, "t.csv")) == ROWS


@pytest.mark.parametrize("pack", PACK)
def test_packed_files(read, pack):
    packed = PACK[pack](LINES)
    assert rows(read(packed)) == rows(read(packed, f"t.jsonl.{pack}")) == ROWS
    assert rows(read(PACK[pack](b"a,b\n1,2"), f"t.csv.{pack}")) == [{"a": "1", "b": "2"}]
    assert rows(read(packed + packed)) == 2 * ROWS  # as `cat a.gz b.gz` makes
    for damaged in (packed[:-3], packed[: len(packed) // 2]):
        with pytest.raises(DataError, match="cut off or damaged") as caught:
            read(damaged)
        assert caught.value.fix
    with pytest.raises(DataError, match="packed twice"):
        read(PACK[pack](packed))
    with pytest.raises(DataError, match="tar archive inside"):
        read(PACK[pack](b"name".ljust(257, b"\0") + b"ustar"))
    with pytest.raises(DataError, match="empty"):
        read(PACK[pack](b""))


@pytest.mark.parametrize("write", COLUMNAR)
def test_columnar_files(read, write):
    records = read(write(pa.Table.from_pylist(ROWS * 3)))
    assert rows(records) == ROWS * 3
    assert [record.line for record in records] == [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match="empty"):
        read(write(pa.table({"a": pa.array([], pa.string())})))
    with pytest.raises(DataError, match="damaged"):
        read(write(pa.Table.from_pylist(ROWS * 3))[:-40])


@pytest.mark.parametrize("write", COLUMNAR)
def test_keys_that_a_row_never_had_are_not_read(read, write):
    calls = [{"name": "f", "arguments": {"city": "Rome"}}, {"name": "g", "arguments": {"days": 2}}]
    table = pa.Table.from_pylist([{"calls": [call], "tools": None} for call in calls])
    assert rows(read(write(table))) == [{"calls": [call], "tools": None} for call in calls]


def test_cells_of_other_types(read):
    table = pa.table(
        {
            "day": [datetime.date(2024, 2, 29)],
            "score": [float("nan")],
            "bytes": ["né".encode()],
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
            "kind": pa.array(["x"]).dictionary_encode(),
        }
    )
    assert rows(read(parquet(table))) == [
        {"day": "2024-02-29", "score": None, "bytes": "né", "map": {"a": 1}, "kind": "x"}
    ]
    [record] = read(parquet(pa.table({"a": ["x"], "image": [{"bytes": b"\xff\xd8", "path": "x.jpg"}]})))
    assert (record.fault, record.detail) == (
        "a cell is no text, number or list",
        "image holds 2 bytes that are no text",
    )
    with pytest.raises(DataError, match="Two columns"):
        read(arrow(pa.table([pa.array([1]), pa.array([2])], ["a", "a"])))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.xlsx", b"PK\x03\x04....", "an Excel file"),
        ("a.zip", b"PK\x03\x04....", "a zip archive"),
        ("a.pkl", b"\x80\x04\x95", "a pickle"),
        ("a.json", b"\x89PNG\r\n", "a PNG image"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.jsonl", b"<!DOCTYPE html><html>", "a web page"),
        ("a.json", b"\0\0\0\1", "neither text nor"),
    ],
)
def test_what_holds_no_rows_is_named(read, name, content, says):
    with pytest.raises(DataError, match=says) as caught:
        read(content, name)
    assert caught.value.fix


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path / "pipe", "a pipe"), ("/dev/null", "a device"), ("a\0b", "cannot be read")):
        with pytest.raises(DataError, match=says) as caught:
            list(read_records(path))
        assert caught.value.fix
