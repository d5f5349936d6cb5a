"""Reading JSON out of files: every layout gives the same rows; what is broken is one record, never lost."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.data.files import Record, json_records, open_file, read_records
from xtune.errors import DataError


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "file"  # the name must not matter

    def write(content):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(write, content):
    return [(r.line, r.fault or r.row) for r in read_records(write(content))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
ROWS = st.lists(
    st.dictionaries(st.text(max_size=3).map(lambda key: "x" + key), JSON, min_size=1, max_size=3),
    min_size=1,
    max_size=4,
)
MESSAGE = st.fixed_dictionaries({"role": st.text(max_size=3), "content": st.text(max_size=3)})
CONVERSATIONS = st.lists(st.lists(MESSAGE, min_size=1, max_size=3), min_size=1, max_size=4)


def layouts(rows, ascii):
    """Each way to write rows, with the line on which each row starts."""
    one = [json.dumps(row, ensure_ascii=ascii) for row in rows]
    indented = [json.dumps(row, ensure_ascii=ascii, indent=2) for row in rows]
    starts = [1]
    for text in indented:
        starts.append(starts[-1] + text.count("\n") + 1)
    numbers = list(range(1, len(rows) + 1))
    yield "\n".join(one), numbers
    yield "\r\n".join(one) + "\r\n", numbers
    yield "\ufeff" + "\n\n".join(one), [2 * n - 1 for n in numbers]
    yield "[" + ", ".join(one) + "]", [1] * len(rows)
    yield "[\n" + ",\n".join(one) + "\n]\n", [n + 1 for n in numbers]
    yield "[" + "\n,".join(one) + "]", numbers
    yield "\ufeff[\n" + ",\n".join(indented) + "\n]", [s + 1 for s in starts[:-1]]
    yield '{"data": [' + ",\n".join(indented) + "]}", starts[:-1]
    yield '{"version": "1",\n"data": [' + ",".join(one) + '], "n": [1]}', [2] * len(rows)
    yield "\r\n".join(indented), starts[:-1]
    yield "".join(one), [1] * len(rows)


@settings(max_examples=40)
@given(ROWS | CONVERSATIONS, st.booleans())
def test_every_layout_gives_the_same_rows_and_their_lines(write, rows, ascii):
    for text, lines in layouts(rows, ascii):
        if text.startswith('{"data"') and json.loads(text)["data"][0] == []:
            continue
        assert read(write, text) == list(zip(lines, rows, strict=True)), text


@settings(max_examples=40)
@given(ROWS)
def test_places_of_records_differ_even_on_one_line(write, rows):
    for text, _ in layouts(rows, True):
        records = list(read_records(write(text)))
        assert len({(record.line, record.column) for record in records}) == len(records)
        for record in records:
            line = text.removeprefix("\ufeff").split("\n")[record.line - 1]
            if record.column:
                assert line[record.column - 1] == "{"
                assert "}" in line[: record.column - 1]


@given(ROWS, st.data())
def test_a_list_cut_off_anywhere_keeps_what_is_before_and_one_fault(write, rows, data):
    one = [json.dumps(row) for row in rows]
    text = "[" + ",\n".join(one) + "]"
    cut = data.draw(st.integers(2, len(text) - 1))
    whole = sum(len("[" + ",\n".join(one[:n])) <= cut for n in range(1, len(rows) + 1))
    got = read(write, text[:cut])
    assert [row for _, row in got[:-1]] == rows[:whole]
    assert got[-1][1] == "the file is cut off here"


@settings(max_examples=40)
@given(ROWS, st.data())
def test_a_broken_line_is_one_record(write, rows, data):
    lines = [json.dumps(row) for row in rows]
    at = data.draw(st.integers(0, len(lines)))
    lines.insert(at, '{"a": 1 "b": 2}')
    got = read(write, "\n".join([*lines, '{"last": 1}']))
    assert got == [
        (n + 1, "not JSON" if n == at else json.loads(line)) for n, line in enumerate([*lines, '{"last": 1}'])
    ]


@given(st.binary() | st.text().map(lambda text: ("[{" + text).encode("utf-8", "replace")))
def test_no_bytes_give_anything_but_records_or_a_data_error(write, content):
    with suppress(DataError):
        assert all(isinstance(record, Record) for record in read_records(write(content)))


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"a": 1, "a": 2}', "a key stands twice in one object"),
        ('{"a": [{"b": 1, "b": 1}]}', "a key stands twice in one object"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": 1e999}', "a number is too large"),
        ('{"a": "\\ud83d"}', "half of a surrogate pair (\\ud800 to \\udfff) cannot be encoded"),
        ('{"\\uDE00": 1}', "half of a surrogate pair (\\ud800 to \\udfff) cannot be encoded"),
    ],
)
def test_what_python_lets_pass_is_a_fault_of_its_row_alone(write, row, fault):
    good = '{"a": "\\ud83d\\ude00"}'
    for text in (f"{good}\n{row}\n{good}", f"[{good},\n{row},\n{good}]"):
        assert read(write, text) == [(1, {"a": "😀"}), (2, fault), (3, {"a": "😀"})]


def test_line_separators_of_unicode_do_not_end_a_line(write):
    row = {"a": "one\u2028two\u2029three\x85four\x0bfive"}
    text = json.dumps(row, ensure_ascii=False)
    assert read(write, f"{text}\n{text}") == [(1, row), (2, row)]


def test_a_fault_says_where(write):
    def only_fault(text):
        return next(f"{r.line}: {r.fault}: {r.detail}" for r in read_records(write(text)) if r.fault)

    assert only_fault('{"a": 1}\n{"a": 1 "b"}\n') == "2: not JSON: Expecting ',' at column 9"
    assert only_fault('[{"a": 1},\n{"a" 1},\n{"a": 2}\n]') == (
        "2: not JSON: Expecting ':' at line 2 column 6; nothing after it was read (to line 4)"
    )
    assert only_fault('{"a": 1}\n' + "[" * 100_000) == "2: not JSON: nested too deeply"
    assert only_fault('{"a": ' + "9" * 5000 + "}") == "1: not JSON: an integer has too many digits"
    assert only_fault('{"data": [{"a": 1}]}{"data": [{"a": 2}]}').startswith("1: not JSON: Extra data")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n", "empty"),
        (b"[]", "no record"),
        (b"a,b\n1,2\n", "not JSON: it starts with 'a,b'"),
        (
            '{"a": "hello"}\n{"a": "你好，世界"}\n'.encode("gb18030"),
            "byte 22, line 2); it looks like GB18030",
        ),
        ('[\n{"a": "这是一个数据集"}]'.encode("gb18030"), "byte 9, line 2); it looks like GB18030"),
        (b"[" + b"\n" * 5 + b"{},\n" * 20 + b'"\xe9"]', "byte 87, line 26"),
        ('{"a": "déjà vu"}'.encode("cp1252"), "byte 8, line 1); it looks like CP1252"),
        ('{"a": "你好"}'.encode("utf-16"), "it looks like UTF-16"),
        ('{"a": "你好"}'.encode("utf-16-le"), "it looks like UTF-16"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PAR1\x15\x04", "Parquet"),
    ],
)
def test_what_is_no_json_file_is_named(write, content, says):
    with pytest.raises(DataError) as caught:
        list(read_records(write(content)))
    assert says in caught.value.what
    assert caught.value.fix
    assert caught.value.exit_code == 3


def test_missing_file_and_directory(tmp_path):
    for path, says in (
        (tmp_path / "none.json", "No such file"),
        (tmp_path, "directory"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(DataError, match=says):
            list(read_records(path))


@pytest.mark.parametrize("line", [b'{"a": 1}\n', b'{"a": 1},\n', b'{"a": "%b"},' % (b"x" * 50)])
def test_rows_come_before_the_file_is_read_to_its_end(write, line):
    # A wrong byte at the end is not met before the records in front of it are out.
    records = read_records(write((b"[" if b"," in line else b"") + line * 100_000 + b"\xff"))
    assert sum(1 for _, _ in zip(range(99_000), records, strict=False)) == 99_000
    with pytest.raises(DataError, match="not UTF-8"):
        list(records)


@given(ROWS | CONVERSATIONS, st.integers(1, 5), st.data())
def test_where_text_is_cut_into_pieces_changes_nothing(write, rows, size, data):
    text = data.draw(st.sampled_from([text for text, _ in layouts(rows, False)]))
    if data.draw(st.booleans()):  # nor does it where the file is broken
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.sampled_from(["", "}", '"', ",\n", "nul", "1.5e"])) + text[at + 1 :]

    def outcome():
        try:
            return list(read_records(write(text)))
        except DataError as error:
            return str(error)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_file, "_CHUNK", size)
        patch.setattr(json_records, "_WRAPPING", 64)
        assert outcome() == whole
