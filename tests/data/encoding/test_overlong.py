"""Samples that are too long: cut as the recipe says, never without their stop token or loss, and counted."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from xtune.data.dataset import load_dataset
from xtune.data.encoding.encode import Encoder
from xtune.data.encoding.encode_records import Work, encode_records
from xtune.data.files import Record
from xtune.data.read import Reader
from xtune.errors import DataError
from xtune.recipe.schema import Data, Defects, Recipe
from xtune.templates.template import find_template

LONG = 100
WAYS = ["auto", "drop", "cut_turns", "split", "cut"]


@pytest.fixture(scope="module")
def encode(tokenizer):
    """encode(turns or text, way) gives the chunk made of one record of (words of question, of answer) pairs."""
    encoder = Encoder.of(tokenizer, find_template("chatml"))

    def encode(rows, way, system="", length=LONG):
        records = []
        for line, row in enumerate(rows, start=1):
            if isinstance(row, str):
                records.append(Record(line, row={"text": row}, file="f"))
                continue
            messages = [{"role": "system", "content": system}] if system else []
            for number, (asked, answered) in enumerate(row):
                messages.append({"role": "user", "content": f"{number} " + "q " * asked})
                messages.append({"role": "assistant", "content": f"{number} " + "a " * answered})
            records.append(Record(line, row={"messages": messages}, file="f"))
        format = "text" if isinstance(rows[0], str) else "messages"
        work = Work(Reader(format, True, Defects().model_dump()), encoder, length, way)
        return encode_records(records, work)

    return encode


def samples(chunk):
    ends = np.cumsum(chunk.lengths)
    return [
        (chunk.ids[end - length : end], chunk.labels[end - length : end])
        for end, length in zip(ends, chunk.lengths, strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(0, 150), st.integers(0, 150)), min_size=1, max_size=4), min_size=1
    ),
    way=st.sampled_from(WAYS),
    system=st.sampled_from(["", "be brief"]),
)
def test_whatever_is_kept_fits_ends_with_its_stop_token_and_has_loss(encode, tokenizer, rows, way, system):
    chunk = encode(rows[:3], way, system)
    report = chunk.report
    assert report.read == len(rows[:3])
    whole = encode(rows[:3], "drop", system, length=100_000)
    fitting = [len(ids) <= LONG for ids, _ in samples(whole)]
    assert report.kept >= sum(fitting)
    if way == "drop":
        assert report.kept == sum(fitting)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for ids, labels in samples(chunk):
        assert len(ids) <= LONG
        learnt = labels[1:][labels[1:] != -100]
        assert len(learnt)
        assert learnt[-1] == stop
        text = tokenizer.decode(ids)
        assert not system or system in text
        # Answers are whole: as many as there are questions, each with all its words.
        kept = [
            tokenizer.decode(part)
            for part in np.split(learnt, np.flatnonzero(learnt == stop) + 1)
            if len(part)
        ]
        answers = {
            f"{number} " + "a " * answered + "<|im_end|>"
            for row in rows
            for number, (_, answered) in enumerate(row)
        }
        assert set(kept) <= answers


def test_what_is_done_is_said(encode):
    two = [(40, 5), (40, 5), (40, 5)]
    for way, said, count in (
        ("cut_turns", "last turns left out", 1),
        ("split", "split", 3),
        ("cut", "what the user says is cut", 1),
    ):
        chunk = encode([two], way)
        (reason,) = chunk.report.repairs
        assert said in reason
        assert chunk.report.repairs[reason].places == ["f:1"]
        assert len(samples(chunk)) == count, way


def test_split_loses_no_exchange_that_fits(encode, tokenizer):
    chunk = encode([[(10, 10), (500, 1), (10, 12), (10, 14)]], "split")
    learnt = [tokenizer.decode(labels[labels != -100]).split()[0] for _, labels in samples(chunk)]
    assert "".join(learnt).count("0") == 1
    assert chunk.report.kept == 1
    joined = " ".join(tokenizer.decode(ids) for ids, _ in samples(chunk))
    for number in (0, 2, 3):
        assert f"assistant\n{number} a" in joined
    assert "assistant\n1 a" not in joined


def test_cut_keeps_both_ends_of_the_question(encode, tokenizer):
    chunk = encode([[(400, 5)]], "cut")
    ((ids, _),) = samples(chunk)
    text = tokenizer.decode(ids)
    assert "…" in text
    assert "user\n0 q q" in text
    assert LONG - 12 <= len(ids) <= LONG


def test_an_answer_alone_too_long_is_dropped_and_counted(encode):
    for way in WAYS:
        chunk = encode([[(1, 400)]], way)
        assert not len(chunk.lengths)
        (reason,) = chunk.report.rejections
        assert reason == f"longer than max_length ({LONG} tokens)"


def test_error_names_the_record(encode):
    with pytest.raises(DataError) as caught:
        encode([[(1, 1)], [(1, 400)]], "error")
    assert caught.value.where == "f:2"


@pytest.mark.parametrize(
    ("way", "count"), [("split", 4), ("cut", 1), ("drop", 0), ("auto", 4), ("cut_turns", 0)]
)
def test_documents(encode, tokenizer, way, count):
    text = "word " * 320
    chunk = encode([text], way)
    assert len(chunk.lengths) == count
    assert all(chunk.lengths <= LONG)
    if way == "split":
        assert tokenizer.decode(chunk.ids) == text + tokenizer.eos_token
        assert (chunk.ids == chunk.labels).all()


def test_labels_are_json(encode):
    assert json.dumps(encode([[(1, 1)]], "drop").report.to_dict())


ROWS = {
    "dpo": {"chosen": "good", "rejected": "bad " * 20},
    "kto": {"completion": "good", "label": True},
    "grpo": {"answer": "4"},
}


@pytest.mark.parametrize("kind", ROWS)
def test_long_prompts_of_other_objectives_are_cut_and_answers_stay(tokenizer, tmp_path, kind):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "q " * length, **ROWS[kind]} for length in (10, 300)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = find_template("chatml")

    def load(way):
        data = Data(sources=[{"path": str(file)}], max_length=LONG, overlong=way)
        return load_dataset(data, tokenizer, template, kind)

    assert len(load("drop")) == 1
    short, cut = (load("cut").texts(number) for number in range(2))
    assert all(len(text) <= LONG for text in cut)
    for one, other in zip(short, cut, strict=True):
        learnt = [tokenizer.decode(text.input_ids[text.loss_mask]) for text in (one, other)]
        assert learnt[0] == learnt[1]
        assert "…" in tokenizer.decode(other.input_ids)
    if kind == "dpo":
        starts = [text.input_ids[: int(text.loss_mask.argmax())].tolist() for text in cut]
        assert starts[0] == starts[1]


@pytest.mark.parametrize(
    ("way", "kind"), [("cut_turns", "dpo"), ("split", "kto"), ("split", "grpo"), ("cut_turns", "pretrain")]
)
def test_what_has_no_turns_to_leave_out_is_refused(way, kind):
    objective = {"kind": "grpo", "rewards": ["answer"]} if kind == "grpo" else kind
    with pytest.raises(ValidationError, match="makes no sense"):
        Recipe.model_validate(
            {
                "model": {"path": "smollm2"},
                "method": {"kind": "lora"},
                "data": {"sources": [{"path": "x"}], "overlong": way},
                "train": {"objective": objective},
            }
        )
