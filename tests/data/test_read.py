"""From a file to samples: the format is found, every record is accounted for, errors say what to do."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.mappers import MAPPERS
from xtune.data.read import iterate_mapped, open_source, read_data
from xtune.data.report import DataReport
from xtune.errors import DataError, UsageError
from xtune.messages import Document, Labelled, Message, Pair, Prompt, Sample
from xtune.recipe.schema import Source

ALPACA = {"instruction": "q", "input": "", "output": "a"}
SHAREGPT = {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
MESSAGES = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
LABELLED = {"prompt": "q", "completion": "a", "label": True}
LEARNT = (Message("user", "q"), Message("assistant", "a"))


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    path = tmp_path_factory.mktemp("read") / "rows.data"

    def write(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def read(path, kinds=None, **options):
    """The samples of a source, and the report."""
    report = DataReport()
    mapped = iterate_mapped(Source(path=str(path), **options), report, kinds=kinds)
    return [sample for _, samples in mapped for sample in samples], report


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
    columns = next(mapper.columns for mapper in MAPPERS if mapper.name == format)
    assert read_data(path)[1].formats[0].why == f"2 of the first 3 rows have {columns}"


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
        ALPACA, '{"a', {**ALPACA, "output": ""}, {**ALPACA, "input": 3}, PAIR, {**ALPACA, "images": ["x"]}
    )
    samples, report = read_data(path)
    assert len(samples) == 2
    assert {reason: tally.places for reason, tally in report.rejections.items()} == {
        "not JSON": [f"{path}:2 (Unterminated string starting at column 2)"],
        "empty answer": [f"{path}:3"],
        "not a row of the format alpaca": [f"{path}:5 (prompt, chosen, rejected)"],
        "the row has images: only text can be trained on": [f"{path}:6"],
    }
    assert {reason: tally.places for reason, tally in report.repairs.items()} == {
        "number in input taken as text": [f"{path}:4"]
    }
    assert report.repaired == 1


def test_limit_takes_the_first_records(write):
    path = write(ALPACA, "{", ALPACA, ALPACA)
    for samples, report in (read(path, limit=3), read_data(path, limit=3)):
        assert [sample.source for sample in samples] == [f"{path}:1", f"{path}:3"]
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
    assert 'no format "sharegtp"; did you mean sharegpt?' in said
    assert "alpaca, alpaca_zh, " in said


def test_no_format_fits(write):
    said = error_of(write({"words": "x"}, {"words": "y", "talk": {"turn_1": {}}}))
    assert "columns seen: words, talk[turn_1]" in said
    assert "alpaca (instruction, input, output" in said
    assert "columns seen: (a number)" in error_of(write("[1]", "[2]"))


def test_preference_rows_are_not_learnt_unasked(write):
    path = write({**MESSAGES, "label": False})
    assert read_data(path)[0] == [Labelled(LEARNT, False, source=f"{path}:1")]
    assert read_data(path, "messages")[0] == [Sample(LEARNT, source=f"{path}:1")]
    with pytest.raises(DataError, match="labelled answers"):
        read(path, (Sample,))


@pytest.mark.parametrize(
    ("row", "kind", "name", "kinds"),
    [
        (PAIR, "preference pairs", "pairs", (Sample,)),
        (LABELLED, "labelled answers", "labelled", (Sample,)),
        (ALPACA, "conversations", "alpaca", (Pair,)),
        ({"prompt": "q", "ground_truth": "a"}, "prompts", "prompts", (Pair, Labelled)),
        ({"text": "words"}, "documents", "text", (Sample,)),
    ],
)
def test_rows_of_another_kind_than_the_objective_learns_from_are_refused(write, row, kind, name, kinds):
    path = write(row, row)
    with pytest.raises(DataError) as caught:
        read(path, kinds)
    said = str(caught.value)
    assert f"These rows are {kind} ({name}), not " in said
    assert f"columns seen: {', '.join(row)}" in said
    assert "fix:   give a file of " in said
    if kind != "documents":  # which are learnt whole, whatever else is
        with pytest.raises(DataError, match=f"These rows are {kind}"):
            read(path, kinds, format=name)


def test_documents_among_conversations_must_be_named(write):
    path = write({"text": "words"})
    assert read(path, (Sample,), format="text")[0] == [Document("words", f"{path}:1")]


def test_rows_that_fit_two_kinds_are_read_as_what_is_wanted(write):
    path = write({"prompt": "q", "response": "a"})
    assert isinstance(read(path)[0][0], Sample)
    assert isinstance(read(path, (Sample,))[0][0], Sample)
    [prompt] = read(path, (Prompt,))[0]
    assert (prompt.messages, prompt.answer) == (LEARNT[:1], "a")


def test_a_layout_of_preferences_that_is_not_known_is_called_so(write):
    said = error_of(write({"chosen_response": "a", "words": "q"}))
    assert "These rows say which answers are better" in said


def test_two_formats_that_fit_are_asked_about(write):
    both = {f"{name}{end}": name for name in ("instruction", "input", "output") for end in ("", "_zh")}
    path = write(ALPACA, both)
    said = error_of(path)
    assert "These rows can be read in 2 ways:\n  alpaca: " in said
    assert "\n  alpaca_zh: " in said
    assert 'format = "alpaca"' in said
    assert len(read_data(path, "alpaca")[0]) == 2


def test_rows_of_other_formats_of_the_kind_are_read_and_noted(write):
    path = write(ALPACA, SHAREGPT, ALPACA, MESSAGES, PAIR)
    samples, report = read_data(path)
    assert samples == [Sample(LEARNT, source=f"{path}:{line}") for line in (1, 2, 3, 4)]
    assert {reason: tally.places for reason, tally in report.notes.items()} == {
        "of another format than most rows: sharegpt": [f"{path}:2"],
        "of another format than most rows: messages": [f"{path}:4"],
    }
    assert report.formats[0].format == "alpaca"
    assert report.formats[0].why.startswith("2 of the first 5 rows have ")
    assert "1 messages" in report.formats[0].why
    assert (report.kept, report.rejected) == (4, 1)
    _, named = read_data(path, "alpaca")
    assert (named.kept, named.rejected, named.notes) == (2, 3, {})


@pytest.mark.parametrize(
    ("alias", "format"),
    [(alias, mapper.name) for mapper in MAPPERS for alias in (mapper.name, *mapper.aliases)],
)
def test_formats_are_found_by_all_their_names(write, alias, format):
    report = DataReport()
    open_source(Source(path=str(write(ALPACA)), format=alias), report)
    assert (report.formats[0].format, report.formats[0].why) == (format, "as named")


SYSTEM = Message("system", "s")


@pytest.mark.parametrize(
    ("row", "options", "prompt"),
    [
        (ALPACA, {}, None),
        (ALPACA, {"system": "s"}, "s"),
        ({**ALPACA, "system": "of the data"}, {"system": "s"}, "of the data"),
        (ALPACA, {"system": "s", "format": "medical"}, "s"),
        ({**ALPACA, "system": "of the data"}, {"format": "code_alpaca"}, "of the data"),
        (ALPACA, {"format": "code_alpaca"}, "experienced programmer"),
        (ALPACA, {"format": "code_alpaca_map_fn"}, "experienced programmer"),
    ],
)
def test_system_prompt_of_the_data_then_the_recipe_then_the_format(write, row, options, prompt):
    [sample], _ = read(write(row), **options)
    systems = [turn.content for turn in sample.messages if turn.role == "system"]
    assert len(systems) == (prompt is not None)
    assert all(prompt in words for words in systems)
    assert sample.messages[len(systems) :] == LEARNT


def test_system_prompt_of_other_kinds(write):
    assert read(write(PAIR), system="s")[0][0].prompt == (SYSTEM, LEARNT[0])
    assert read(write(LABELLED), system="s")[0][0].messages == (SYSTEM, *LEARNT)
    assert read(write({"question": "q"}), system="s")[0][0].messages == (SYSTEM, LEARNT[0])
    path = write({"text": "words"})
    assert read(path, system="s")[0] == [Document("words", f"{path}:1")]


def test_split_and_encoding(tmp_path):
    for split, output in (("train", "a"), ("test", "größer")):
        line = json.dumps({**ALPACA, "output": output}, ensure_ascii=False)
        (tmp_path / f"{split}.jsonl").write_text(line, encoding="cp1252")

    def answers(**options):
        return [sample.messages[-1].content for sample in read(tmp_path, **options)[0]]

    assert answers(split="train") == ["a"]
    assert answers(split="test", encoding="cp1252") == ["größer"]
    with pytest.raises(DataError, match="UTF-8"):
        answers(split="test")


def test_some_of_the_samples_in_a_row_may_be_left_out(write):
    row = {
        "instruction": "q",
        "instances": [{"input": "", "output": words} for words in ("", "a", "<nooutput>")],
    }
    path = write(row, {**row, "instances": row["instances"][:1]}, {**row, "instances": []})
    samples, report = read_data(path)
    assert samples == [Sample(LEARNT, source=f"{path}:1")]
    assert (report.kept, report.repaired, report.rejected) == (1, 1, 2)
    assert list(report.repairs) == ["one of several samples in a row left out: empty answer"]
    assert {reason: tally.places for reason, tally in report.rejections.items()} == {
        "empty answer": [f"{path}:2"],
        "the row holds no sample": [f"{path}:3"],
    }


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
