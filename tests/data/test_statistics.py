"""What a source consists of: every number against one that is counted in another way."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data import statistics
from xtune.data.encoding.encode import encode
from xtune.data.read import read_data
from xtune.data.statistics import Spread, check_sources
from xtune.errors import DataError
from xtune.recipe.schema import Data, Source
from xtune.templates.template import find_template

ROWS = [
    {"instruction": f"What is {n}?", "input": "", "output": "It is a number. " * (n % 7 + 1)}
    for n in range(30)
]
BAD = {"instruction": "q", "input": "", "output": ""}


@pytest.fixture
def check(tmp_path, tokenizer):
    """check(row, "broken line", …) checks a file of these lines, as `data` says."""

    def check(*rows, template="smollm2", format="auto", name="rows.jsonl", **data):
        path = tmp_path / name
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        handed = {key: data.pop(key) for key in ("progress", "rejects") if key in data}
        said = Data(sources=[Source(path=str(path), format=format)], **data)
        (one,) = check_sources(said.sources, tokenizer, find_template(template), said, **handed)
        return one

    return check


@pytest.mark.parametrize("chunk", [3, 256])
def test_the_numbers_are_those_of_the_encoded_samples(check, tokenizer, chunk, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", chunk)
    told = []
    one = check(*ROWS, "{broken", BAD, max_length=64, progress=lambda _, read: told.append(read))
    samples, report = read_data(one.source.path)
    encoded = [encode(sample.messages, tokenizer=tokenizer, template="smollm2") for sample in samples]
    assert one.report == report
    assert (one.kind, one.samples, report.rejected) == ("conversations", 30, 2)
    assert one.tokens == sum(map(len, encoded))
    assert one.learnt == sum(int(each.loss_mask.sum()) for each in encoded)
    assert one.lengths.counts == Counter(map(len, encoded))
    assert sum(count for _, _, count in one.lengths.histogram()) == one.samples
    assert one.overlong == sum(len(each) > 64 for each in encoded) > 0
    longest = sorted((len(each) for each in encoded), reverse=True)[:5]
    assert [tokens for tokens, _ in one.longest] == longest
    length = {sample.source: len(each) for sample, each in zip(samples, encoded, strict=True)}
    assert all(length[place] == tokens for tokens, place in one.longest)
    assert one.turns.counts == {1: 30}
    assert one.error is None
    assert told == list(range(chunk, 33, chunk))


NUMBERS = st.lists(st.integers(0, 5000), min_size=1)


@given(NUMBERS)
def test_spread(numbers):
    spread = Spread(Counter(numbers))
    assert spread.longest == max(numbers)
    for percent in (50, 90, 99):
        assert spread.percentile(percent) == np.percentile(numbers, percent, method="inverted_cdf")
    bins = spread.histogram()
    for low, high, count in bins:
        assert count == sum(low <= number <= high for number in numbers)
    assert sum(count for *_, count in bins) == len(numbers)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(bins))
    assert bins[0][2]
    assert bins[-1][2]


def test_duplicates_are_told_with_the_place_of_the_first(check):
    same = {"instruction": "  What IS\n0? ", "input": "", "output": ROWS[0]["output"]}
    one = check(ROWS[0], BAD, ROWS[1], same, BAD, ROWS[1], *[ROWS[0]] * 5)
    path = one.source.path
    assert one.duplicates == 7
    assert one.repeated == [
        (f"{path}:{line}", f"{path}:{first}") for line, first in [(4, 1), (6, 3), (7, 1), (8, 1), (9, 1)]
    ]


@given(st.lists(st.integers(0, 4), max_size=30))
def test_duplicates_of_any_order(numbers):
    hashes = statistics.array("Q", [number and 2**60 + number for number in numbers])
    pairs = [
        (index, numbers.index(number))
        for index, number in enumerate(numbers)
        if number and numbers.index(number) < index
    ]
    assert statistics._duplicates(hashes) == (len(pairs), pairs[:5])


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there."}]


def test_every_kind_of_sample(check, tokenizer):
    def length(messages, **more):
        return len(encode(messages, tokenizer=tokenizer, template="smollm2", **more))

    pair = check({"prompt": "Hi", "chosen": "Hello there.", "rejected": "No."})
    short = [TURNS[0], {"role": "assistant", "content": "No."}]
    assert (pair.kind, pair.samples) == ("preference pairs", 1)
    assert pair.tokens == length(TURNS) + length(short)
    assert pair.lengths.counts == {length(TURNS): 1}
    labelled = check(*[{"messages": TURNS, "label": label} for label in (True, False, True)])
    assert (labelled.kind, labelled.good, labelled.samples) == ("labelled answers", 2, 3)
    assert labelled.to_dict()["good"] == 2
    document = check({"text": "Once upon a time."})
    assert (document.kind, document.turns.longest) == ("documents", 0)
    assert document.learnt == document.tokens == len(tokenizer("Once upon a time.<|im_end|>")["input_ids"])


def test_a_template_that_trains_turn_by_turn(check):
    one = check({"messages": TURNS * 3}, template="qwen3")
    assert (one.samples, one.turns.counts) == (1, {3: 1})
    assert one.tokens > 2 * one.lengths.longest > 0


def test_rejected_records_are_handed_over(check):
    given = []
    one = check(*ROWS, BAD, "{broken", rejects=lambda record, fault: given.append((record, fault)))
    assert [(record.place, record.row, fault.reason) for record, fault in given] == [
        (f"{one.source.path}:31", BAD, "empty answer"),
        (f"{one.source.path}:32", None, "not JSON"),
    ]


def test_what_the_template_cannot_express_is_rejected(check, tmp_path):
    picky = tmp_path / "picky.jinja"
    picky.write_text(
        "{% for turn in messages %}{% if 'x' in turn.content %}{{ raise_exception('no x') }}{% endif %}"
        "{% generation %}{{ turn.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    rows = [ROWS[0], {**ROWS[0], "output": "x"}]
    one = check(*rows, template=str(picky))
    ((reason, tally),) = one.report.rejections.items()
    assert "no x" in reason
    assert tally.places == [f"{one.source.path}:2"]
    assert (one.samples, sum(one.lengths.counts.values())) == (1, 1)
    stopped = check(*rows, template=str(picky), defects={"template": "stop"})
    assert "no x" in str(stopped.error)


def test_what_cannot_be_read_stops_no_other_source(check, tmp_path, tokenizer):
    path = tmp_path / "good.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    said = Data(sources=[Source(path=str(tmp_path / "nowhere.jsonl")), Source(path=str(path))])
    lost, good = check_sources(said.sources, tokenizer, find_template("smollm2"), said)
    assert isinstance(lost.error, DataError)
    assert "nowhere" in str(lost.error)
    assert (lost.kind, lost.report.read, lost.samples) == ("", 0, 0)
    assert good.error is None
    assert good.samples == 30
    assert lost.to_dict()["error"]["what"]


def test_what_was_read_before_an_error_counts(check):
    one = check(*ROWS, BAD, *ROWS, defects={"empty_answer": "stop"})
    assert one.error.where == f"{one.source.path}:31"
    assert one.samples == one.report.read == sum(one.lengths.counts.values()) == 30


def test_nothing_usable_is_an_error(check):
    one = check(BAD, BAD)
    assert "None of the 2 records" in str(one.error)
    assert one.lengths.histogram() == []
    assert one.report.rejections["empty answer"].count == 2


def test_languages_and_unknown_characters(check):
    chinese = {"instruction": "今天天气怎么样？", "input": "", "output": "今天天气很好，适合出去走走。"}
    one = check(*ROWS[:3], chinese, {**ROWS[5], "output": "odd \x04 one"})
    assert one.languages == {"en": 0.8, "zh": 0.2}
    assert one.report.notes["the tokenizer has no token for U+0004"].count == 1
    dropped = check(chinese, {**ROWS[5], "output": "\x04"}, defects={"unknown_character": "drop"})
    assert (dropped.report.kept, dropped.report.rejected) == (1, 1)


def test_languages_of_many_records_are_estimated(check, monkeypatch):
    monkeypatch.setattr(statistics, "_LANGUAGE_FIRST", 10)
    chinese = {"instruction": "今天天气怎么样？", "input": ""}
    rows = [
        {**chinese, "output": f"今天天气很好，{n}度。"}
        if n % 2
        else {**ROWS[0], "instruction": f"What is it? {n}"}
        for n in range(400)
    ]
    shares = check(*rows).languages
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["zh"] == pytest.approx(0.5, abs=0.12)
