"""Prompts for reinforcement learning, and plain text."""

import pytest

from tests.data.mappers.test_all import BY_NAME, mapped
from xtune.data.findings import Reject
from xtune.messages import Document, Message, Prompt

PROMPTS, TEXT = BY_NAME["prompts"], BY_NAME["text"]
USER = Message("user", "q")
TURN = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "q"}, None),
        ({"question": "q", "answer": "4"}, "4"),
        ({"prompt": "q", "solution": "so it is 4", "answer": 4}, 4),
        ({"problem": "q", "solution": "so it is 4"}, "so it is 4"),
        ({"prompt": [TURN], "reward_model": {"style": "rule", "ground_truth": "4"}, "answer": "5"}, "4"),
        ({"prompt": [TURN], "reward_model": None, "ground_truth": ["4"]}, ["4"]),
        ({"messages": [TURN], "solution": "4"}, "4"),
        ({"instruction": "q", "input": "", "output": "4"}, "4"),
    ],
)
def test_prompts(row, answer):
    assert PROMPTS.fits(row)
    assert mapped(PROMPTS, row) == [Prompt((USER,), answer, row)]
    assert mapped(PROMPTS, {**row, "system": "s"})[0].messages == (Message("system", "s"), USER)


@pytest.mark.parametrize(
    "turns", [[TURN, {"role": "assistant", "content": "a"}], [{"role": "system", "content": "s"}]]
)
def test_a_prompt_ends_with_a_question(turns):
    assert not PROMPTS.fits({"messages": turns})
    for row in ({"messages": turns}, {"prompt": turns}):
        with pytest.raises(Reject, match="does not end with a question"):
            mapped(PROMPTS, row)


@pytest.mark.parametrize("column", ["text", "content", "raw_content", "toy_text", "response", "completion"])
def test_text_is_kept_as_it_is(column):
    row = {column: " \n words\u2028 ", "url": "x"}
    assert TEXT.fits(row)
    assert mapped(TEXT, row) == [Document(" \n words\u2028 ")]


@pytest.mark.parametrize(
    "row",
    [
        {"content": "c", "summary": "s"},
        {"role": "user", "content": "c"},
        {"prompt": "q", "response": "a"},
        {"instruction": "q", "output": "a"},
        {"messages": [TURN]},
        {"response": "a", "label": True},
    ],
)
def test_what_is_no_plain_text(row):
    assert not TEXT.fits(row)
    with pytest.raises(Reject):
        mapped(TEXT, row)


def test_each_turn_of_xtuners_pretraining_is_a_text():
    turns = [{"role": "pretrain", "content": "one"}, {"role": "pretrain", "content": "two\n"}]
    assert mapped(TEXT, {"messages": turns}) == [Document("one"), Document("two\n")]
    with pytest.raises(Reject, match="another role"):
        mapped(TEXT, {"messages": [*turns, TURN]})
