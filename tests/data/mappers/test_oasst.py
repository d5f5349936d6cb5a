"""OpenAssistant as text and as trees."""

import itertools

import pytest

from xtune.data.files import Record
from xtune.data.findings import Findings, Reject
from xtune.data.mappers.guanaco import GUANACO
from xtune.data.mappers.oasst import OASST
from xtune.messages import Message

ROWS = [
    # name, parent, rank: the best path is a, c, e, g
    ("a", None, None),
    ("b", "a", 1),
    ("c", "a", 0),
    ("d", "c", None),
    ("e", "c", 0),
    ("f", "e", 2),
    ("g", "e", 1),
    ("z", None, None),
]


def message(name, parent, rank, **more):
    role = "prompter" if name in "adez" else "assistant"
    tree = {"message_id": name, "parent_id": parent, "message_tree_id": "a", "rank": rank}
    return {**tree, "text": f"text of {name}", "role": role, "lang": "en", "deleted": False, **more}


def gathered(rows):
    return list(OASST.gather(Record(line, row=row) for line, row in enumerate(rows, start=1)))


def names(record):
    if record.fault:
        return record.fault
    return "".join(said.content[-1] for said in OASST.map(record.row, Findings()).messages)


def test_a_thread_is_the_best_path():
    rows = [message(*row) for row in ROWS]
    assert all(OASST.fits(row) for row in rows)
    tree, alone = gathered(rows)
    assert (tree.line, alone.line) == (1, 8)
    assert OASST.map(tree.row, Findings()).messages == (
        Message("user", "text of a"),
        Message("assistant", "text of c"),
        Message("user", "text of e"),
        Message("assistant", "text of g"),
    )


def test_the_order_of_rows_does_not_matter():
    rows = [message(*row) for row in ROWS[:6]]
    for order in itertools.islice(itertools.permutations(rows), 0, 720, 37):
        assert [names(record) for record in gathered(order)] == ["acef"]


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("written", [lambda value: value, str])
def test_tables_hold_text(empty, written):
    rows = [
        message(name, parent or empty, written(rank) if rank is not None else empty)
        for name, parent, rank in ROWS
    ]
    rows = [{**row, "deleted": written(row["deleted"])} for row in rows]
    assert [names(record) for record in gathered(rows)] == ["aceg", "z"]


def test_nothing_is_lost_unseen():
    rows = [
        *(message(*row) for row in ROWS),
        message("h", "a", -1, deleted=True),
        message("i", "h", 0),
        message("j", "i", 0),
        message("k", "gone", 0),
        message("l", "a", -1, review_result=False),
        message("c", "a", 0),
        {"text": "no message"},
    ]
    told = [names(record) for record in gathered(rows) if record.line != 15]
    assert sorted(told) == sorted(
        [
            "aceg",
            "z",
            "a message was deleted",
            "a message failed its review",
            "a message stands twice",
            *["a message answers one that is not there, or was left out"] * 3,
        ]
    )
    [passed_on] = [record for record in gathered([*rows, None]) if record.line == 15]
    with pytest.raises(Reject, match="no message with"):
        OASST.map(passed_on.row, Findings())
    broken = Record(1, fault="not JSON", detail="here")
    assert list(OASST.gather(iter([broken]))) == [broken]


def test_messages_that_answer_each_other_end():
    rows = [message("b", "c", 0), message("c", "b", 0)]
    assert [record.line for record in gathered(rows) if record.fault] == [1, 2]


def test_nested_trees():
    def node(name, *replies, **more):
        return {
            "text": f"text of {name}",
            "role": "prompter" if name in "ade" else "assistant",
            "replies": [*replies],
            **more,
        }

    tree = node("a", node("b", rank=1), node("h", rank=0, deleted=True), node("c", node("e"), rank=0.5))
    row = {"message_tree_id": "a", "prompt": tree}
    assert OASST.fits(row)
    assert gathered([row]) == [Record(1, row=row)]
    assert names(Record(1, row=row)) == "ace"
    with pytest.raises(Reject, match="deleted"):
        OASST.map({**row, "prompt": {**tree, "deleted": True}}, Findings())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": "### Human: q### Assistant: a"}, ["q", "a"]),
        ({"text": "### Human: q ### Assistant: a\n### Human: r\n### Assistant: b"}, ["q", "a", "r", "b"]),
        (
            {"text": "### Human: q### Assistant: # One\n### Two\n#### Human: no### Human: r"},
            ["q", "# One\n### Two\n#### Human: no", "r"],
        ),
        ({"text": "### Human: q### Assistant: ### Steps:\n1"}, ["q", "### Steps:\n1"]),
        ({"text": "### Human: q### Assistant: a### Human: r"}, ["q", "a", "r"]),
        ({"text": "### Human: q ### Assistant:", "output": "a", "message_id": "m"}, ["q", "a"]),
        ({"text": "### Human: q", "output": "a"}, ["q", "a"]),
    ],
)
def test_guanaco(row, expected):
    assert GUANACO.fits(row)
    messages = GUANACO.map(row, Findings()).messages
    assert [message.content for message in messages] == expected


def test_guanaco_needs_its_headings():
    for text in ("", "q", "words ### Human: q### Assistant: a", "### Title\n"):
        assert not GUANACO.fits({"text": text})
        with pytest.raises(Reject, match="does not start with"):
            GUANACO.map({"text": text}, Findings())
