"""What is repaired in a conversation, and what is rejected. S u a t: system, user, assistant, tool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.check import check
from xtune.data.mappers import Mapped, Reject
from xtune.messages import ROLES, Message

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
    assert check(Mapped(talk(text))) == Mapped(talk(text))


def test_white_space_is_kept():
    messages = (Message("user", " q \n"), Message("assistant", "\n a\t"))
    assert check(Mapped(messages)) == Mapped(messages)


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
    assert check(Mapped(talk(text))) == Mapped(talk(becomes), repairs=(repair,))


def test_same_role_twice_is_joined_by_a_blank_line():
    got = check(Mapped(talk("u:q u:r a:a a:b")))
    assert [message.content for message in got.messages] == ["q\n\nr", "a\n\nb"]
    assert got.repairs == ("user twice in a row: joined", "assistant twice in a row: joined")


def test_calls_in_a_row_become_parallel_calls():
    got = check(Mapped(talk("u:q a! a! t:r t:r a:a")))
    assert got.messages[1].tool_calls == (CALL, CALL)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nothing to learn: no question with an answer"),
        ("S:s", "nothing to learn: no question with an answer"),
        ("u:q", "nothing to learn: no question with an answer"),
        ("a:a", "nothing to learn: no question with an answer"),
        ("u:q a:", "empty answer"),
        ("u: a:a", "empty question"),
        ("u:q a-:a", "no turn carries loss"),
        ("u:q a-:a u:q2 a:", "no turn carries loss"),
        ("u:q S:s a:a", "a system message after the first turn"),
        ("u:q t:r a:a", "a tool's result after a user turn"),
        ("u:q a! a:a", "assistant turns in a row that cannot be joined"),
        ("u:q a:a a-:b", "assistant turns in a row, one with loss and one without"),
    ],
)
def test_rejected(text, reason):
    with pytest.raises(Reject) as caught:
        check(Mapped(talk(text)))
    assert caught.value.reason == reason


def test_reasoning_stays_before_what_it_led_to():
    thought = Message("assistant", "b", reasoning="r")
    call = Message("assistant", "", tool_calls=(CALL,))
    with pytest.raises(Reject):
        check(Mapped((*talk("u:q a:a"), thought)))
    got = check(Mapped((*talk("u:q"), thought, call)))
    assert got.messages[1] == Message("assistant", "b", reasoning="r", tool_calls=(CALL,))


MESSAGES = st.lists(
    st.builds(
        Message,
        st.sampled_from(ROLES[1:]),
        st.text(max_size=2),
        reasoning=st.none() | st.just("r"),
        tool_calls=st.just(()) | st.just((CALL,)),
        loss=st.booleans(),
    ).map(lambda m: m if m.role == "assistant" else Message(m.role, m.content)),
    max_size=8,
)


@given(st.integers(0, 2), MESSAGES)
def test_what_passes_can_be_learnt_and_passes_again(systems, turns):
    try:
        got = check(Mapped((*[Message("system", "s")] * systems, *turns)))
    except Reject:
        return
    roles = [message.role for message in got.messages]
    turns = got.messages[systems:]
    assert roles[: systems + 1] == ["system"] * systems + ["user"]
    assert roles[-1] == "assistant"
    assert all(a != b or a == "tool" for a, b in zip(roles[systems:], roles[systems + 1 :], strict=False))
    assert any(message.loss for message in turns if message.role == "assistant")
    assert all(message.content.strip() or message.tool_calls or message.role == "tool" for message in turns)
    assert check(Mapped(got.messages)) == Mapped(got.messages)
