"""Every defect that a recipe's `data.defects` names, with every action it allows: what is kept, counted, or stops."""

import json
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest

from xtune.data.dataset import load_dataset
from xtune.data.read import iterate_mapped
from xtune.data.report import DataReport
from xtune.errors import DataError
from xtune.recipe.schema import Data, Defects, Source
from xtune.templates.template import find_template


def row(*turns, **columns):
    """row("user:q", "assistant:a") is a row of OpenAI's messages; dicts are turns as they stand."""
    split = [turn if isinstance(turn, dict) else turn.partition(":")[::2] for turn in turns]
    messages = [turn if isinstance(turn, dict) else {"role": turn[0], "content": turn[1]} for turn in split]
    return {"messages": messages, **columns}


def pair(question, chosen, rejected, other=None):
    said = ((question, chosen), (other or question, rejected))
    return {
        name: row(f"user:{asked}", f"assistant:{answer}")["messages"]
        for name, (asked, answer) in zip(("chosen", "rejected"), said, strict=True)
    }


@dataclass(frozen=True)
class Case:
    """A record with the defect.

    bad      the row, or a line as it stands
    reason   what is counted where the record is kept as it is or dropped
    becomes  what is said in it where it is repaired, or turns are dropped
    how      what the repair says after the reason
    detail   what is told besides
    good     the record before and after it
    """

    bad: Any
    reason: str
    becomes: tuple[str, ...] = ()
    how: str = ""
    detail: str = ""
    good: Any = field(default_factory=lambda: row("user:q", "assistant:a"))


QA = ("user:q", "assistant:a")
PAIR = pair("q", "a", "b")
THINKING = {"role": "assistant", "content": "a", "reasoning_content": "hm"}
READ = {
    "broken_record": Case('{"messages": [', "not JSON", detail="Expecting value at column 15"),
    "wrong_columns": Case({"words": 1}, "not a row of the format messages", detail="words"),
    "wrong_type": Case(row({"role": "user", "content": True}), "the content of a turn is true, not text"),
    "not_text": Case(
        row({"role": "user", "content": 3}, "assistant:a"),
        "number in the content of a turn taken as text",
        ("3", "a"),
    ),
    "broken_json": Case(row(*QA, tools="[1}"), "tools is not JSON", detail="Expecting ',' at column 3"),
    "unknown_role": Case(row("narrator:x"), 'unknown role "narrator"'),
    "media": Case(row(*QA, images=["x.png"]), "the row has images: only text can be trained on"),
    "starts_with_answer": Case(
        row("assistant:hi", *QA), "starts with the assistant", ("q", "a"), "dropped up to the first user turn"
    ),
    "same_role_twice": Case(row("user:p", *QA), "user twice in a row", ("p\n\nq", "a"), "joined"),
    "empty_question": Case(row(*QA, "user: ", "assistant:b"), "empty question", ("q", "a"), "cut there"),
    "empty_answer": Case(row(*QA, "user:r", "assistant:\n"), "empty answer", ("q", "a"), "cut there"),
    "no_answer": Case(row(*QA, "user:r"), "ends with the user", ("q", "a"), "cut"),
    "late_system": Case(row("user:q", "system:s", "assistant:a"), "a system message after the first turn"),
    "misplaced_tool": Case(row("user:q", "tool:r", "assistant:a"), "a tool's result after a user turn"),
    "no_loss": Case(
        row("user:q", {"role": "assistant", "content": "a", "loss": False}), "no turn carries loss"
    ),
    "unequal_prompts": Case(
        pair("q", "a", "b", other="r"), "chosen and rejected answer different questions", good=PAIR
    ),
    "equal_answers": Case(pair("q", "a", "a"), "chosen and rejected are the same", good=PAIR),
    "outer_space": Case(
        row("user:q", "assistant: a\n"), "white space before or after what is said", ("q", "a")
    ),
    "odd_space": Case(row("user:q", "assistant:a\xa0b"), "odd space U+00A0", ("q", "a b")),
    "mojibake": Case(row("user:q", "assistant:cafÃ©"), "characters lost in an earlier conversion (mojibake)"),
    "control_token": Case(row("user:q", "assistant:<s>"), "control token in text: <s>"),
}
ENCODED = {
    "duplicate": Case(row(*QA), "the same as an earlier record"),
    "unknown_character": Case(
        row("user:q", "assistant:\U00040000"), "the tokenizer has no token for U+40000"
    ),
    "template": Case(
        row("user:r", THINKING),
        "The chat template smollm2 cannot render this conversation: the format has no place for reasoning",
        ("r", "a"),
    ),
}
# What a repair is called where that is no more than the reason.
REPAIRED_AS = {"template": "thinking left out: the chat template has no place for it"}


def actions(name):
    return get_args(Defects.model_fields[name].annotation)


def cases(table):
    return [pytest.param(name, action, id=f"{name}-{action}") for name in table for action in actions(name)]


def test_every_defect_has_a_case():
    assert READ.keys() | ENCODED.keys() == Defects.model_fields.keys()
    assert not READ.keys() & ENCODED.keys()


@pytest.fixture
def write(tmp_path):
    """The case as a file: its record in the second of three lines."""

    def write(case):
        path = tmp_path / "rows.jsonl"
        last = json.loads(json.dumps(case.good).replace('"q"', '"another question"'))
        lines = [line if isinstance(line, str) else json.dumps(line) for line in (case.good, case.bad, last)]
        path.write_text("\n".join(lines))
        return path

    return write


def judge(case, name, action, place, kept, report):
    """`kept` are the words of the samples by the line of their record, `report` DataReport.to_dict()."""
    counted = {
        part: {reason: tally["places"] for reason, tally in report[part].items()}
        for part in ("notes", "repairs", "rejections")
    }
    expected = {part: {} for part in counted}
    assert [line for line in (1, 3) if line not in kept] == []
    if action == "keep":
        expected["notes"] = {case.reason: [place]}
        assert kept[2] == tuple(turn["content"] for turn in case.bad["messages"])
    elif action == "drop":
        expected["rejections"] = {case.reason: [place + (f" ({case.detail})" if case.detail else "")]}
        assert 2 not in kept
    else:
        said = REPAIRED_AS.get(name, case.reason + (f": {case.how}" if case.how else ""))
        expected["repairs"] = {said: [place]}
        assert kept[2] == case.becomes
    assert counted == expected
    dropped = action == "drop"
    assert [report[part] for part in ("read", "kept", "rejected")] == [3, 3 - dropped, int(dropped)]


def judge_error(case, name, place, error):
    assert error.where == place
    assert str(error).startswith(case.reason[0].upper() + case.reason[1:])
    assert case.detail in str(error)
    assert f"data.defects.{name}" in error.fix


@pytest.mark.parametrize(("name", "action"), cases(READ))
def test_defects_of_records(write, name, action):
    case = READ[name]
    path = write(case)
    chosen = Defects(**{name: action}).model_dump()
    report = DataReport()
    read = iterate_mapped(Source(path=str(path)), report, actions=chosen)
    if action == "stop":
        with pytest.raises(DataError) as caught:
            list(read)
        judge_error(case, name, f"{path}:2", caught.value)
        return
    kept = {
        record.line: tuple(turn.content for turn in (getattr(sample, "messages", None) or sample.prompt))
        for record, samples in read
        for sample in samples
    }
    judge(case, name, action, f"{path}:2", kept, report.to_dict())


@pytest.mark.parametrize(("name", "action"), cases(ENCODED))
def test_defects_found_while_encoding(write, tokenizer, tmp_path, monkeypatch, name, action):
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path / "home"))
    case = ENCODED[name]
    path = write(case)
    data = Data(sources=[{"path": str(path)}], defects={name: action})
    if action == "stop":
        with pytest.raises(DataError) as caught:
            load_dataset(data, tokenizer, find_template("smollm2"))
        judge_error(case, name, f"{path}:2", caught.value)
        return
    dataset = load_dataset(data, tokenizer, find_template("smollm2"))
    # Turns but for the system prompt that the template writes.
    kept = {
        int(dataset.source(number).rpartition(":")[2]): tuple(
            part.partition("\n")[2].strip()
            for part in tokenizer.decode(dataset[number].input_ids)
            .replace("<|im_end|>", "")
            .split("<|im_start|>")[2:]
        )
        for number in range(len(dataset))
    }
    if name == "unknown_character" and 2 in kept:
        kept[2] = (kept[2][0], "\U00040000")  # which was lost, as the report says
    judge(case, name, action, f"{path}:2", kept, dataset.report)


def test_a_defect_that_is_repaired_in_part_is_dropped_where_it_cannot_be(
    write, tokenizer, tmp_path, monkeypatch
):
    """Tools are not left out as thinking is: an answer that calls one would be about nothing."""
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path / "home"))
    path = write(Case(row(*QA, tools=[{"name": "f"}]), ""))
    data = Data(sources=[{"path": str(path)}], defects={"template": "repair"})
    report = load_dataset(data, tokenizer, find_template("smollm2")).report
    [reason] = report["rejections"]
    assert "no tools" in reason
