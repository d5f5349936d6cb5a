"""Pairs and labelled answers: what belongs to the prompt, what to the answers, and which rows say nothing."""

import pytest

from tests.data.mappers.examples import EXAMPLES, TURNS
from tests.data.mappers.test_all import BY_NAME, mapped
from xtune.data.findings import Reject
from xtune.messages import Message

PAIRS, LABELLED = BY_NAME["pairs"], BY_NAME["labelled"]
SYSTEM, USER = Message("system", "s"), Message("user", "q")
GOOD, BAD = Message("assistant", "good"), Message("assistant", "bad")


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def pair(row):
    [got] = mapped(PAIRS, row)
    return got.prompt, got.chosen, got.rejected


Q, G, B = ("user", "q"), ("assistant", "good"), ("assistant", "bad")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": said(Q, G), "rejected": said(Q, B)},
        {"chosen": said(Q, G), "rejected": said(Q, B)},
        {"chosen_messages": said(("system", "s"), Q, G), "rejected_messages": said(("system", "s"), Q, B)},
        {"conversations": said(Q), "chosen": "good", "rejected": said(B)[0]},
        {"messages": said(Q, G), "rejected_response": "bad"},
        {"messages": said(Q, G), "rejected_messages": said(Q, B)},
        {"query": "q", "response": "good", "rejected_response": "bad"},
        {"question": "q", "response_chosen": "good", "response_rejected": "bad"},
        {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
        # POLAR's
        {"prompt": said(Q), "reference": said(("assistant", "fine")), "chosen": said(G), "rejected": said(B)},
    ],
)
@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_the_prompt_is_what_both_share(row, column):
    assert PAIRS.fits(row)
    assert pair(row)[1:] == ((GOOD,), (BAD,))
    assert pair({**row, column: "s"}) == ((SYSTEM, USER), (GOOD,), (BAD,))


def test_history_and_earlier_turns_belong_to_the_prompt():
    earlier = (Message("user", "one"), Message("assistant", "1"))
    row = {"question": "q", "history": [["one", "1"]], "response_chosen": "good", "response_rejected": "bad"}
    assert pair(row) == ((*earlier, USER), (GOOD,), (BAD,))
    before = [("user", "one"), ("assistant", "1"), Q]
    assert pair({"chosen": said(*before, G), "rejected": said(*before, B)}) == (
        (*earlier, USER),
        (GOOD,),
        (BAD,),
    )
    assert pair({"messages": said(*before, G), "rejected_response": "bad"}) == (
        (*earlier, USER),
        (GOOD,),
        (BAD,),
    )


def test_flags_of_loss_do_not_part_prompts():
    unlearnt = [{**turn, "loss_weight": 0.0} for turn in said(Q, ("assistant", "1"), Q)]
    row = {"chosen": unlearnt + said(G), "rejected": said(Q, ("assistant", "1"), Q, B)}
    assert pair(row)[1:] == ((GOOD,), (BAD,))


@pytest.mark.parametrize("tools", [[{"name": "f"}], '[{"name": "f"}]'])
def test_tools_are_kept(tools):
    [got] = mapped(PAIRS, {"prompt": "q", "chosen": "good", "rejected": "bad", "tools": tools})
    assert got.tools == ({"type": "function", "function": {"name": "f"}},)


def test_a_call_is_an_answer():
    call = {"name": "f", "arguments": {}}
    row = {
        "conversations": said(Q),
        "chosen": {"from": "function_call", "value": '{"name": "f"}'},
        "rejected": "bad",
    }
    assert pair(row)[1] == (Message("assistant", "", tool_calls=(call,)),)


@pytest.mark.parametrize(
    ("row", "defect"),
    [
        ({"prompt": "q", "chosen": "same", "rejected": "same"}, "equal_answers"),
        ({"chosen": said(Q, G), "rejected": said(Q, G)}, "equal_answers"),
        ({"prompt": "q", "chosen": "good", "rejected": " "}, "empty_answer"),
        ({"prompt": "q", "chosen": None, "rejected": "bad"}, "empty_answer"),
        ({"prompt": "q", "chosen": [], "rejected": "bad"}, "empty_answer"),
        ({"chosen": said(Q, G), "rejected": said(Q)}, "empty_answer"),
        ({"chosen": said(Q, G), "rejected": said(("user", "p"), B)}, "unequal_prompts"),
        ({"chosen": said(("system", "s"), Q, G), "rejected": said(Q, B)}, "unequal_prompts"),
        (
            {"chosen": said(Q, ("assistant", "1"), Q, G), "rejected": said(Q, ("assistant", "2"), Q, B)},
            "unequal_prompts",
        ),
        ({"chosen": "good", "rejected": "bad"}, "wrong_columns"),
        ({"prompt": "q", "chosen": "good"}, "wrong_columns"),
        ({"prompt": "q", "rejected_response": "bad"}, "wrong_columns"),
        ({"prompt": "q", "chosen": True, "rejected": "bad"}, "wrong_type"),
    ],
)
def test_pairs_without_a_preference_are_rejected(row, defect):
    with pytest.raises(Reject) as caught:
        mapped(PAIRS, row)
    assert caught.value.defect == defect


@pytest.mark.parametrize("column", ["label", "kto_tag"])
@pytest.mark.parametrize(
    ("value", "good"),
    [
        (True, True),
        (False, False),
        (1, True),
        (0, False),
        (1.0, True),
        ("true", True),
        ("False", False),
        ("0", False),
    ],
)
def test_labels(column, value, good):
    row = {"messages": TURNS, column: value}
    assert LABELLED.fits(row)
    assert mapped(LABELLED, row)[0].good is good


@pytest.mark.parametrize("value", ["medicine", None, 2, [], "yes"])
def test_what_is_no_label(value):
    row = {"messages": TURNS, "label": value}
    assert not LABELLED.fits(row)
    with pytest.raises(Reject) as caught:
        mapped(LABELLED, row)
    assert caught.value.defect == "wrong_type"


def test_labelled_rows_are_read_as_the_conversations_they_hold():
    for row in EXAMPLES["labelled"]:
        conversation = {column: value for column, value in row.items() if column not in ("label", "kto_tag")}
        [mapper] = (
            mapper
            for mapper in BY_NAME.values()
            if mapper.kind.__name__ == "Sample" and mapper.fits(conversation)
        )
        assert mapped(LABELLED, row)[0].messages == mapped(mapper, conversation)[0].messages
