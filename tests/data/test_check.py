"""What is repaired in a conversation, and what is rejected. S u a t: system, user, assistant, tool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.check import check
from xtune.data.findings import Findings, Reject, default_actions
from xtune.messages import ROLES, Document, Labelled, Message, Pair, Prompt, Sample

ROLE = {"S": "system", "u": "user", "a": "assistant", "t": "tool"}
CALL = {"name": "f", "arguments": {}}


def talk(text):
    """ "u:hi a:ho" as messages; "a!" is a tool call without words, "a-:ho" a turn without loss."""
    messages = []
    for word in text.split():
        kind, _, content = word.partition(":")
        messages.append(
            Message(ROLE[kind[0]], content, tool_calls=(CALL,) if "!" in kind else (), loss="-" not in kind)
        )
    return tuple(messages)


def repaired(sample, **actions):
    """The checked sample, and what was repaired in it."""
    found = Findings({**default_actions(), **actions})
    return check(sample, found), list(found.repairs)


def reject_of(sample, **actions):
    with pytest.raises(Reject) as caught:
        check(sample, Findings({**default_actions(), **actions}))
    return caught.value.defect, caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "u:q a:a",
        "S:s u:q a:a",
        "S:s S:s2 u:q a:a",
        "S: u:q a:a",
        "u:q a! t:r a:a",
        "u:q a! t:r t:r2 a:a",
        "u:q a!",
        "u:q a:a u:q2 a-:a2",
        "u:q a! t: a:a",
        "u:q a! u:stop a:a",
    ],
)
def test_left_as_it_is(text):
    sample = Sample(talk(text), source="f:1")
    found = Findings()
    assert check(sample, found) is sample
    assert not found.repairs
    assert not found.notes


def test_white_space_is_kept():
    sample = Sample((Message("user", " q \n"), Message("assistant", "\n a\t")))
    assert repaired(sample) == (sample, [])


@pytest.mark.parametrize(
    ("text", "becomes", "repair"),
    [
        ("u:q a:a u:q2", "u:q a:a", "ends with the user: cut"),
        ("u:q a! t:r", "u:q a!", "ends with a tool's result: cut"),
        ("a:hello u:q a:a", "u:q a:a", "starts with the assistant: dropped up to the first user turn"),
        (
            "S:s t:r a:x u:q a:a",
            "S:s u:q a:a",
            "starts with a tool's result: dropped up to the first user turn",
        ),
        ("u:q a:a u:q2 a:", "u:q a:a", "empty answer: cut there"),
        ("u:q a:a u:q2 a: u:q3 a:a3", "u:q a:a", "empty answer: cut there"),
        ("u:q a:a u: a:a2", "u:q a:a", "empty question: cut there"),
        ("u:q a:a u:q2 a! t:r a:", "u:q a:a", "empty answer: cut there"),
        ("u: u:q a:a", "u:q a:a", "user twice in a row: joined"),
        ("u:q a:x a!", "u:q a!:x", "assistant twice in a row: joined"),
    ],
)
def test_repairs(text, becomes, repair):
    tools = ({"type": "function", "function": {"name": "f"}},)
    assert repaired(Sample(talk(text), tools, "f:1")) == (Sample(talk(becomes), tools, "f:1"), [repair])


def test_same_role_twice_is_joined_by_a_blank_line():
    got, repairs = repaired(Sample(talk("u:q u:r a:a a:b")))
    assert [message.content for message in got.messages] == ["q\n\nr", "a\n\nb"]
    assert repairs == ["user twice in a row: joined", "assistant twice in a row: joined"]


def test_calls_in_a_row_become_parallel_calls():
    got, _ = repaired(Sample(talk("u:q a! a! t:r t:r a:a")))
    assert got.messages[1].tool_calls == (CALL, CALL)


@pytest.mark.parametrize(
    ("text", "defect", "reason"),
    [
        ("", "no_answer", "nothing to learn: no question with an answer"),
        ("S:s", "no_answer", "nothing to learn: no question with an answer"),
        ("u:q", "no_answer", "nothing to learn: no question with an answer"),
        ("a:a", "no_answer", "nothing to learn: no question with an answer"),
        ("u:q a:", "empty_answer", "empty answer"),
        ("u: a:a", "empty_question", "empty question"),
        ("u:q a-:a", "no_loss", "no turn carries loss"),
        ("u:q a-:a u:q2 a:", "no_loss", "no turn carries loss"),
        ("u:q S:s a:a", "late_system", "a system message after the first turn"),
        ("u:q t:r a:a", "misplaced_tool", "a tool's result after a user turn"),
        ("u:q a! a:a", "same_role_twice", "assistant turns in a row that cannot be joined"),
        ("u:q a:a a-:b", "same_role_twice", "assistant turns in a row, one with loss and one without"),
    ],
)
def test_rejected(text, defect, reason):
    assert reject_of(Sample(talk(text))) == (defect, reason)


def test_what_would_be_repaired_is_rejected_by_the_fault_alone():
    assert reject_of(Sample(talk("u:q u:q a:a")), same_role_twice="drop")[1] == "user twice in a row"
    assert reject_of(Sample(talk("u:q a:a u:q")), no_answer="drop")[1] == "ends with the user"


def test_reasoning_stays_before_what_it_led_to():
    thought = Message("assistant", "b", reasoning="r")
    call = Message("assistant", "", tool_calls=(CALL,))
    assert reject_of(Sample((*talk("u:q a:a"), thought)))[0] == "same_role_twice"
    got, _ = repaired(Sample((*talk("u:q"), thought, call)))
    assert got.messages[1] == Message("assistant", "b", reasoning="r", tool_calls=(CALL,))


MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(ROLES[1:]),
        st.text(max_size=2) | st.sampled_from(["\u200b", " \ufeff", "\xa0q\x85"]),
        reasoning=st.none() | st.just("r"),
        tool_calls=st.just(()) | st.just((CALL,)),
        loss=st.booleans(),
    ).map(lambda m: m if m.role == "assistant" else Message(m.role, m.content)),
    max_size=8,
)


@given(st.integers(0, 2), MESSAGES, st.sampled_from(["keep", "repair"]))
def test_what_passes_can_be_learnt_and_passes_again(systems, turns, spaces):
    actions = {"outer_space": spaces, "odd_space": spaces}
    try:
        got, _ = repaired(Sample((*[Message("system", "s")] * systems, *turns)), **actions)
    except Reject:
        return
    roles = [message.role for message in got.messages]
    turns = got.messages[systems:]
    assert roles[: systems + 1] == ["system"] * systems + ["user"]
    assert roles[-1] == "assistant"
    assert all(a != b or a == "tool" for a, b in zip(roles[systems:], roles[systems + 1 :], strict=False))
    assert any(message.loss for message in turns if message.role == "assistant")
    assert all(message.content.strip() or message.tool_calls or message.role == "tool" for message in turns)
    assert repaired(got, **actions) == (got, [])


def pair(prompt, chosen, rejected):
    return Pair(talk(prompt), talk(chosen), talk(rejected), source="f:1")


@pytest.mark.parametrize(
    ("given", "becomes", "repairs"),
    [
        (("u:q", "a:a", "a:b"), ("u:q", "a:a", "a:b"), []),
        (("S:s u:q a:x u:q2", "a:a", "a! t:r a:b"), ("S:s u:q a:x u:q2", "a:a", "a! t:r a:b"), []),
        (("u:q a! t:r", "a:a", "a:b"), ("u:q a! t:r", "a:a", "a:b"), []),
        (
            ("a:hello u:q", "a:a", "a:b"),
            ("u:q", "a:a", "a:b"),
            ["starts with the assistant: dropped up to the first user turn"],
        ),
        (("u: u:q", "a:a", "a:b"), ("u:q", "a:a", "a:b"), ["user twice in a row: joined"]),
        (("u:q", "a:a u:more", "a:b"), ("u:q", "a:a", "a:b"), ["ends with the user: cut"]),
        (("u:q", "a: a:a", "a:b"), ("u:q", "a:a", "a:b"), ["assistant twice in a row: joined"]),
    ],
)
def test_the_prompt_of_a_pair_is_repaired_the_same_in_both(given, becomes, repairs):
    assert repaired(pair(*given)) == (pair(*becomes), repairs)


def test_spaces_are_put_right_in_all_parts_of_a_pair():
    sample = Pair(
        *((Message(role, f" {role}\n"),) for role in ("user", "assistant")), (Message("assistant", "b"),)
    )
    got, _ = repaired(sample, outer_space="repair")
    assert got == Pair(
        *((Message(role, role),) for role in ("user", "assistant")), (Message("assistant", "b"),)
    )


@pytest.mark.parametrize(
    ("given", "defect", "reason"),
    [
        (("u:q", "a:a", "a:a"), "equal_answers", "chosen and rejected are the same"),
        (("u:q", "a:", "a:b"), "empty_answer", "empty answer"),
        (("u:q", "a:a", "a:"), "empty_answer", "empty answer"),
        (("u:q a:x u:q2", "a:a", "a:"), "empty_answer", "empty answer"),
        (("u:q a:x u:q2", "a:a", ""), "empty_answer", "empty answer"),
        (("u:", "a:a", "a:b"), "empty_question", "empty question"),
        (("u:q a:x u:", "a:a", "a:b"), "empty_question", "empty question"),
        (("u:q a: u:q2", "a:a", "a:b"), "empty_answer", "empty answer"),
        (("", "a:a", "a:b"), "no_answer", "nothing to learn: no question with an answer"),
        (("u:q a:x", "a:a", "a:b"), "wrong_type", "the prompt ends with an answer"),
        (("u:q S:s", "a:a", "a:b"), "late_system", "a system message after the first turn"),
    ],
)
def test_pairs_that_are_rejected(given, defect, reason):
    assert reject_of(pair(*given)) == (defect, reason)


@pytest.mark.parametrize("good", [True, False])
def test_a_label_stays_with_the_answer_it_was_given_to(good):
    assert repaired(Labelled(talk("u:q a:a u:q2"), good)) == (
        Labelled(talk("u:q a:a"), good),
        ["ends with the user: cut"],
    )
    assert reject_of(Labelled(talk("u:q a:a u:q2 a:"), good)) == ("empty_answer", "empty answer")
    assert reject_of(Labelled(talk("u:q a:a u: a:b"), good)) == ("empty_question", "empty question")


def test_a_prompt_ends_where_its_answer_is_wanted():
    sample = Prompt(talk("S:s u:q a:a u:q2"), 42, {"answer": 42}, source="f:1")
    assert repaired(sample) == (sample, [])
    assert repaired(Prompt(talk("u:q u:r"))) == (
        Prompt((Message("user", "q\n\nr"),)),
        ["user twice in a row: joined"],
    )
    # Cut before the empty question, the answer would be to another one.
    assert reject_of(Prompt(talk("u:q a:a u:"), 42)) == ("empty_question", "empty question")
    assert reject_of(Prompt(talk("u:q a:a"), 42)) == ("wrong_type", "the prompt ends with an answer")


def test_a_document_is_text():
    assert repaired(Document(" text \n")) == (Document(" text \n"), [])
    assert repaired(Document(" a\xa0b \n"), outer_space="repair", odd_space="repair")[0] == Document("a b")
    for empty in ("", " \n", "\u200b"):
        assert reject_of(Document(empty), odd_space="repair") == ("empty_answer", "empty document")


def test_a_turn_of_odd_spaces_alone_is_empty_once_they_are_put_right():
    sample = Sample((*talk("u:q a:a u:r"), Message("assistant", "\u200b")))
    assert repaired(sample)[0] is sample
    assert repaired(sample, odd_space="repair")[0] == Sample(talk("u:q a:a"))
