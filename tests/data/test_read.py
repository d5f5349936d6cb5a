"""From a file to samples: the format is found, every record is accounted for, errors say what to do."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.mappers import MAPPERS
from xtune.data.read import read_data, read_source
from xtune.data.report import DataReport
from xtune.errors import DataError, UsageError
from xtune.messages import Message, Sample
from xtune.recipe.schema import Source

ALPACA = {"instruction": "q", "input": "", "output": "a"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
LEARNT = (Message("user", "q"), Message("assistant", "a"))


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    path = tmp_path_factory.mktemp("read") / "rows.data"

    def write(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("row", "format"),
    [(ALPACA, "alpaca"), (SHAREGPT, "sharegpt"), (MESSAGES, "messages"), (MESSAGES["messages"], "messages")],
)
def test_the_format_is_found(write, row, format):
    path = write(row, row, {"other": 1})
    for asked in ("auto", format):
        samples, report = read_data(path, asked)
        assert samples == [Sample(LEARNT, source=f"{path}:{line}") for line in (1, 2)]
        assert (report.read, report.kept, report.rejected) == (3, 2, 1)
        assert report.formats[0].format == format
    assert report.formats[0].why == "as named"
    assert read_data(path)[1].formats[0].why.startswith("2 of the first 3 rows have ")


def test_every_mapper_has_a_format_of_its_own():
    for row in (ALPACA, SHAREGPT, MESSAGES):
        assert [mapper.fits(row) for mapper in MAPPERS].count(True) == 1


def test_path_stands_as_given(write, monkeypatch):
    path = write(ALPACA)
    monkeypatch.chdir(path.parent)
    assert read_data("./rows.data")[0][0].source == "./rows.data:1"


def test_records_on_one_line_can_be_told_apart(write):
    path = write(json.dumps([ALPACA, ALPACA]))
    second = path.read_text().rindex("{")
    assert [sample.source for sample in read_data(path)[0]] == [f"{path}:1", f"{path}:1:{second + 1}"]


def test_report_names_reasons_and_places(write):
    path = write(
        ALPACA, '{"a', {**ALPACA, "output": ""}, {**ALPACA, "input": 3}, MESSAGES, {**ALPACA, "images": ["x"]}
    )
    samples, report = read_data(path)
    assert len(samples) == 2
    assert {reason: tally.places for reason, tally in report.rejections.items()} == {
        "not JSON": [f"{path}:2 (Unterminated string starting at column 2)"],
        "empty answer": [f"{path}:3"],
        "not a row of the format alpaca": [f"{path}:5 (messages[role, content])"],
        "the row has images: only text can be trained on": [f"{path}:6"],
    }
    assert {reason: tally.places for reason, tally in report.repairs.items()} == {
        "number in input taken as text": [f"{path}:4"]
    }
    assert report.repaired == 1


def test_limit_takes_the_first_records(write):
    path = write(ALPACA, "{", ALPACA, ALPACA)
    source = Source(path=str(path), limit=3)
    report = DataReport()
    assert [sample.source for sample in read_source(source, report)] == [f"{path}:1", f"{path}:3"]
    assert (report.read, report.kept, report.rejected) == (3, 2, 1)


def test_rows_beyond_the_first_are_read(write):
    samples, report = read_data(write(*[ALPACA] * 250))
    assert len(samples) == report.read == 250


def error_of(path, format="auto", kind=DataError):
    with pytest.raises(kind) as caught:
        read_data(path, format)
    assert caught.value.fix
    return str(caught.value)


def test_unknown_format_is_told_with_the_nearest(write):
    said = error_of(write(ALPACA), "sharegtp", UsageError)
    assert 'no format "sharegtp"; did you mean "sharegpt"?' in said
    assert "alpaca, sharegpt, messages" in said


def test_no_format_fits(write):
    said = error_of(write({"text": "x"}, {"text": "y", "chat": {"turn_1": {}}}))
    assert "columns seen: text, chat[turn_1]" in said
    assert "alpaca (instruction, input, output); sharegpt" in said
    assert "columns seen: (a number)" in error_of(write("[1]", "[2]"))


@pytest.mark.parametrize("format", ["auto", "messages"])
def test_preference_rows_are_not_learnt_unasked(write, format):
    path = write({**MESSAGES, "label": False})
    if format == "auto":
        assert "better" in error_of(path)
    else:
        assert read_data(path, format)[1].kept == 1


def test_nothing_kept_lists_the_reasons(write):
    path = write({**ALPACA, "output": ""}, {**ALPACA, "output": " "}, "{}")
    said = error_of(path)
    assert "None of the 3 records can be used (format alpaca, 2 of the first 3 rows" in said
    assert f"2 x empty answer: {path}:1, {path}:2" in said


def test_no_record_can_be_read(write):
    path = write('{"a": NaN}', '{"a": 1 2}')
    assert f"{path}:1: NaN is not a JSON number" in error_of(path)
    assert f"{path}:2: not JSON (Expecting ',' at column 9)" in error_of(path)


TEXT = st.text(max_size=8)
ANY_ROW = st.one_of(
    st.fixed_dictionaries({"instruction": TEXT, "output": TEXT}, optional={"input": TEXT | st.integers()}),
    st.fixed_dictionaries(
        {
            "messages": st.lists(
                st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "x"]), "content": TEXT})
            )
        }
    ),
    st.sampled_from([ALPACA, SHAREGPT, "{", '{"a": NaN}', "[]", '{"a":1}{"b":2}']),
)


@given(st.lists(ANY_ROW, max_size=12))
def test_every_record_is_kept_or_rejected(write, rows):
    try:
        samples, report = read_data(write(*rows, ALPACA))
    except DataError:
        return
    assert report.read == report.kept + report.rejected
    assert len(samples) == report.kept >= report.repaired
    assert report.read == sum(2 if row == '{"a":1}{"b":2}' else 1 for row in rows) + 1
    assert len({sample.source for sample in samples}) == len(samples)


@given(
    st.binary() | st.text().map(lambda text: text.encode("utf-8", "replace")),
    st.sampled_from([b"", b"{", b"[", b'[{"']),
)
def test_fuzzed_bytes_give_a_report_or_a_data_error(write, content, start):
    path = write()
    path.write_bytes(start + content)
    with suppress(DataError):
        samples, report = read_data(path)
        assert report.read == len(samples) + report.rejected


ALPACA_ROWS = st.lists(
    st.fixed_dictionaries({"instruction": TEXT, "input": TEXT, "output": TEXT}, optional={"system": TEXT}),
    min_size=1,
)


@given(ALPACA_ROWS)
def test_layouts_give_the_same_samples(write, rows):
    rows = [ALPACA, *rows]
    indented = json.dumps(rows, indent=4, ensure_ascii=False)
    path = write("\n".join(json.dumps(row) for row in rows))
    samples, report = read_data(path)
    for text in (indented, "\ufeff" + indented.replace("\n", "\r\n"), json.dumps({"data": rows})):
        path.write_bytes(text.encode())
        others, other = read_data(path)
        assert [sample.messages for sample in others] == [sample.messages for sample in samples]
        assert (other.read, other.rejected, other.repaired) == (report.read, report.rejected, report.repaired)
    starts = [n for n, line in enumerate(indented.split("\n"), start=1) if line == "    {"]
    path.write_text(indented, encoding="utf-8")
    line_of = dict(zip(range(1, len(rows) + 1), starts, strict=True))
    expected = [f"{path}:{line_of[int(sample.source.rpartition(':')[2])]}" for sample in samples]
    assert [sample.source for sample in read_data(path)[0]] == expected
