"""What can be done to a conversation, and that what is saved is data to train on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.chat.commands import COMMANDS, run_command
from xtune.chat.conversation import Conversation, Settings, save, set_value, undo
from xtune.data.read import read_data
from xtune.errors import UsageError
from xtune.messages import Message

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn"]), min_size=1).filter(
    str.strip
)
CALL = ({"name": "calculator", "arguments": {"expression": "1+1"}},)
TOOL = {"type": "function", "function": {"name": "calculator", "description": "sums", "parameters": {}}}


@st.composite
def answers(draw):
    answer = Message("assistant", draw(words), reasoning=draw(st.none() | words))
    if draw(st.booleans()):
        return (
            Message("assistant", "", tool_calls=CALL),
            Message("tool", draw(words), name="calculator"),
            answer,
        )
    return (answer,)


@st.composite
def conversations(draw):
    made = Conversation(draw(st.none() | words), tools=(TOOL,))
    for question, answer in draw(st.lists(st.tuples(words, answers()), max_size=4)):
        made = made.answered(question, answer)
    return made


@settings(max_examples=25, deadline=None)
@given(conversations(), words, answers())
def test_a_turn_is_taken_back_or_asked_again(conversation, question, answer):
    after = conversation.answered(question, answer)
    assert undo(after) == (conversation, question)
    assert run_command("/undo", after).conversation == conversation
    again = run_command("/regenerate", after)
    assert (again.conversation, again.ask) == (conversation, question)
    assert again.conversation.asked(question)[-1] == Message("user", question)


@settings(max_examples=25, deadline=None)
@given(conversations())
def test_reset_keeps_all_but_what_was_said(conversation):
    after = run_command("/reset", conversation).conversation
    assert after == replace(conversation, messages=())
    with pytest.raises(UsageError, match="Nothing was asked"):
        run_command("/undo", after)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_what_is_saved_is_read_back(tmp_path_factory, suffix):
    @settings(max_examples=20, deadline=None)
    @given(conversations().filter(lambda conversation: conversation.messages))
    def check(conversation):
        file = tmp_path_factory.mktemp("saved") / f"talk{suffix}"
        save(conversation, str(file))
        (sample,), _ = read_data(file)
        system = [] if conversation.system is None else [Message("system", conversation.system)]
        assert sample.messages == (*system, *conversation.messages)
        assert sample.tools == conversation.tools

    check()


def test_saving_never_writes_over_a_file(tmp_path):
    file = tmp_path / "talk.jsonl"
    talk = Conversation().answered("Hi", [Message("assistant", "Hello")])
    with pytest.raises(UsageError, match="nothing to save"):
        save(Conversation(), str(file))
    with pytest.raises(UsageError, match=r"\.json or \.jsonl"):
        save(talk, str(tmp_path / "talk"))
    with pytest.raises(UsageError, match="cannot be written"):
        save(talk, str(tmp_path / "nowhere" / "talk.jsonl"))
    assert list(tmp_path.iterdir()) == []
    save(talk, str(file))
    with pytest.raises(UsageError, match="exists already"):
        save(talk.answered("More", [Message("assistant", "No")]), str(file))
    assert len(json.loads(file.read_text())["messages"]) == 2


def test_settings():
    chosen = Settings()
    for name, typed, value in [
        ("temperature", "0.7", 0.7),
        ("top_p", "0.9", 0.9),
        ("max_new_tokens", "20", 20),
        ("seed", "3", 3),
        ("seed", "none", None),
    ]:
        step = run_command(f"/set {name} {typed}", Conversation(settings=chosen))
        chosen = step.conversation.settings
        assert getattr(chosen, name) == value
        assert f"{name} {typed}" in step.say
    assert chosen == Settings(0.7, 0.9, 20, None)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temprature", "1", "did you mean temperature?"),
        ("x", "1", "There is no setting 'x'."),
        ("temperature", "-1", "a number from 0"),
        ("temperature", "nan", "a number from 0"),
        ("temperature", "inf", "a number from 0"),
        ("temperature", "", "a number from 0"),
        ("top_p", "0", "above 0"),
        ("max_new_tokens", "1.5", "a whole number from 1"),
        ("seed", "-1", "a whole number from 0"),
    ],
)
def test_settings_that_are_none(name, value, message):
    with pytest.raises(UsageError) as raised:
        set_value(Settings(), name, value)
    assert message in str(raised.value)


def test_system_prompt():
    told = run_command("/system Be brief.\nAnd kind.", Conversation()).conversation
    assert told.asked("Hi")[0] == Message("system", "Be brief.\nAnd kind.")
    assert run_command("/system", told).say == "Be brief.\nAnd kind."
    assert run_command("/system none", told).conversation == Conversation()


def test_unknown_commands_name_the_nearest():
    with pytest.raises(UsageError, match="no command /regen; did you mean /regenerate"):
        run_command("/regen", Conversation())
    with pytest.raises(UsageError, match=r"no command /\.") as raised:
        run_command("/", Conversation())
    assert "/help" in str(raised.value)


def test_help_tells_all_commands():
    said = run_command("/help", Conversation()).say
    assert all(f"/{name}" in said for name in set(COMMANDS) - {"help"})


def test_regenerating_says_where_it_will_come_out_the_same():
    talk = Conversation().answered("Hi", [Message("assistant", "Hello")])
    assert "temperature 0" in run_command("/regenerate", talk).say
    assert "seed" in run_command("/regenerate", replace(talk, settings=Settings(1.0, seed=1))).say
    assert run_command("/regenerate", replace(talk, settings=Settings(1.0))).say == ""
