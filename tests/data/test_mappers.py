"""Each format's rows in the shapes they come in, as messages."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.mappers import MAPPERS, Mapped, Reject
from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.messages import MESSAGES
from xtune.data.mappers.sharegpt import SHAREGPT
from xtune.messages import ROLES, Message

USER, ANSWER = Message("user", "q"), Message("assistant", "a")
CALL = {"name": "f", "arguments": {"x": 1}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def sharegpt(*turns, **columns):
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **columns}


def messages(*turns, **columns):
    return {"messages": list(turns), **columns}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "i", "input": "x", "output": "a"}, [Message("user", "i\nx"), ANSWER]),
        ({"instruction": "q", "input": "", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "input": None, "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "", "input": "q", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "input": "<noinput>", "output": "a"}, [USER, ANSWER]),
        (
            {"instruction": " q\n", "output": " a \n"},
            [Message("user", " q\n"), Message("assistant", " a \n")],
        ),
        ({"instruction": 12, "output": 0.5}, [Message("user", "12"), Message("assistant", "0.5")]),
        ({"instruction": "q", "output": "a", "system": "s"}, [Message("system", "s"), USER, ANSWER]),
        ({"instruction": "q", "output": "a", "system": "", "history": []}, [USER, ANSWER]),
        (
            {"instruction": "i", "output": "o", "history": [["q", "a"]], "system": "s"},
            [Message("system", "s"), USER, ANSWER, Message("user", "i"), Message("assistant", "o")],
        ),
    ],
)
def test_alpaca(row, expected):
    assert ALPACA.fits(row)
    assert list(ALPACA.map(row).messages) == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "q", "output": ""}, "empty answer"),
        ({"instruction": "q", "output": " \n"}, "empty answer"),
        ({"instruction": "q", "output": None}, "empty answer"),
        ({"instruction": "q", "output": "<nooutput>"}, "empty answer"),
        ({"instruction": "q"}, 'no column "output"'),
        ({"instruction": ["q"], "output": "a"}, "instruction is a list, not text"),
        ({"instruction": "q", "output": True}, "output is true, not text"),
        (
            {"instruction": "q", "output": "a", "history": [["q"]]},
            "history is not a list of [question, answer]",
        ),
        ("text", "the row is text, not an object"),
    ],
)
def test_alpaca_rejects(row, reason):
    with pytest.raises(Reject) as caught:
        ALPACA.map(row)
    assert caught.value.reason == reason


def test_repairs_are_said():
    assert ALPACA.map({"instruction": 1, "output": "a"}).repairs == ("number in instruction taken as text",)
    assert ALPACA.map({"instruction": "q", "input": "<noinput>", "output": "a"}).repairs == (
        'input "<noinput>" taken as empty',
    )
    assert ALPACA.map({"instruction": "q", "output": "a"}).repairs == ()


@pytest.mark.parametrize("mapper", [SHAREGPT, MESSAGES])
@pytest.mark.parametrize(
    ("name", "role"),
    [(name, "user") for name in ("human", "Human", "user", "USER", "prompter")]
    + [(name, "assistant") for name in ("gpt", "bot", "chatgpt", "bard", "assistant", "MOSS", "Assistant")]
    + [(name, "system") for name in ("system", "System", "developer")]
    + [(name, "tool") for name in ("observation", "tool", "function", "environment", "ipython")],
)
def test_roles_in_the_wild(mapper, name, role):
    row = sharegpt((name, "x")) if mapper is SHAREGPT else messages(said(name, "x"))
    assert mapper.fits(row)
    assert mapper.map(row).messages == (Message(role, "x"),)


@pytest.mark.parametrize(
    "row",
    [
        sharegpt(("human", "q"), ("gpt", "a")),
        {"conversation": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
        {"conversations": [said("user", "q"), said("assistant", "a")]},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"conversation": [{"user": "q", "assistant": "a"}]},
        {"conversations": '[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]'},
    ],
)
def test_sharegpt_layouts(row):
    assert SHAREGPT.fits(row)
    assert SHAREGPT.map(row).messages == (USER, ANSWER)
    assert SHAREGPT.map({**row, "system": "s"}).messages == (Message("system", "s"), USER, ANSWER)


def test_system_prompt_in_both_places_stands_once():
    row = sharegpt(("system", "s"), ("human", "q"), ("gpt", "a"), system="s")
    assert SHAREGPT.map(row).messages == (Message("system", "s"), USER, ANSWER)


@pytest.mark.parametrize(
    "tools", [[TOOL["function"]], [TOOL], json.dumps([TOOL["function"]]), json.dumps([TOOL])]
)
@pytest.mark.parametrize(
    "call", [json.dumps(CALL), json.dumps({**CALL, "arguments": '{"x": 1}'}), CALL, [CALL]]
)
def test_sharegpt_tool_calls(tools, call):
    row = sharegpt(("human", "q"), ("function_call", call), ("observation", "r"), ("gpt", "a"), tools=tools)
    assert SHAREGPT.map(row) == Mapped(
        (USER, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "r", name="f"), ANSWER), (TOOL,)
    )


@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}])
@pytest.mark.parametrize(
    "named_by", [{"tool_call_id": "2"}, {"name": "g"}, {"name": "g", "tool_call_id": "2"}]
)
def test_messages_tool_calls(arguments, named_by):
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, name in (("1", "f"), ("2", "g"))
    ]
    row = messages(
        said("user", "q"),
        said("assistant", None, tool_calls=calls),
        said("tool", "second", **named_by),
        said("tool", "first"),
        said("assistant", "a"),
        tools=[TOOL],
    )
    assert MESSAGES.map(row) == Mapped(
        (
            USER,
            Message("assistant", "", tool_calls=(CALL, {**CALL, "name": "g"})),
            Message("tool", "second", name="g"),
            Message("tool", "first", name="f"),
            ANSWER,
        ),
        (TOOL,),
    )


def test_results_without_a_name_answer_the_calls_in_order():
    calls = [json.dumps({"name": name, "arguments": {}}) for name in ("f", "g")]
    turns = [*(("function_call", call) for call in calls), *[("observation", "r")] * 3]
    got = SHAREGPT.map(sharegpt(("human", "q"), *turns)).messages
    assert [message.name for message in got[3:]] == ["f", "g", None]


@pytest.mark.parametrize("arguments", ["arguments", "parameters"])
def test_messages_old_function_call(arguments):
    row = messages(
        said("user", "q"),
        said("assistant", "wait", function_call={"name": "f", arguments: '{"x": 1}'}),
        said("function", {"r": 2}, name="f"),
        functions=[TOOL["function"]],
    )
    assert MESSAGES.map(row) == Mapped(
        (USER, Message("assistant", "wait", tool_calls=(CALL,)), Message("tool", '{"r": 2}', name="f")),
        (TOOL,),
        ("a tool's result written as JSON text",),
    )


def test_messages_layouts():
    turns = [said("developer", "s"), said("user", "q"), said("assistant", "a")]
    for row in (turns, {"messages": turns}, {"messages": json.dumps(turns)}):
        assert MESSAGES.fits(row)
        assert MESSAGES.map(row).messages == (Message("system", "s"), USER, ANSWER)
    on_system = messages(said("system", "s", tools=[TOOL["function"]]), *turns[1:])
    assert MESSAGES.map(on_system).tools == (TOOL,)


def test_messages_content_parts():
    parts = [
        {"type": "reasoning", "value": "r"},
        {"type": "text", "text": "a "},
        {"type": "text", "value": "b"},
        {"type": "tool_call", "value": json.dumps(CALL)},
    ]
    [message] = MESSAGES.map(messages(said("assistant", parts))).messages
    assert message == Message("assistant", "a b", reasoning="r", tool_calls=(CALL,))


@pytest.mark.parametrize("key", ["reasoning_content", "thinking"])
def test_messages_reasoning(key):
    assert MESSAGES.map(messages(said("assistant", "a", **{key: "r"}))).messages[0].reasoning == "r"
    assert MESSAGES.map(messages(said("assistant", "a", **{key: None}))).messages[0].reasoning is None


@pytest.mark.parametrize("key", ["loss", "loss_weight", "weight"])
@pytest.mark.parametrize(
    ("value", "loss"),
    [
        (False, False),
        ("False", False),
        ("false", False),
        (0, False),
        (0.0, False),
        ("0", False),
        (True, True),
        ("True", True),
        (1, True),
        (1.0, True),
        (None, True),
    ],
)
def test_loss_flag(key, value, loss):
    row = messages(said("user", "q", **{key: value}), said("assistant", "a", **{key: value}))
    assert [message.loss for message in MESSAGES.map(row).messages] == [True, loss]


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (said("critic", "x"), 'unknown role "critic"'),
        (said("pretrain", "x"), 'unknown role "pretrain"'),
        ({"content": "x"}, "a turn has no role"),
        (said(3, "x"), "a role is a number, not text"),
        ("x", "a turn is text, not an object"),
        (said("user", {"a": 1}), "the content of a turn is an object, not text"),
        (
            said("user", [{"type": "image_url", "image_url": "x"}]),
            "a turn holds image url: only text can be trained on",
        ),
        (said("user", [{"type": "hologram"}]), "a part of the content is of an unknown type"),
        (said("assistant", "a", loss=0.5), "loss is neither true nor false"),
        (said("assistant", "a", loss="perhaps"), "loss is neither true nor false"),
        (said("user", "q", tool_calls=[CALL]), "a user turn calls a tool"),
        (said("assistant", "", tool_calls=CALL), "tool_calls is an object, not a list"),
        (said("assistant", "", tool_calls=[{"arguments": {}}]), "a tool call has no name"),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": "[1]"}]),
            "the arguments of a tool call are a list, not an object",
        ),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": "{'x': 1}"}]),
            "the arguments of a tool call is not JSON",
        ),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": '{"x": NaN}'}]),
            "the arguments of a tool call is not JSON: NaN is not a JSON number",
        ),
    ],
)
def test_messages_reject(turn, reason):
    with pytest.raises(Reject) as caught:
        MESSAGES.map(messages(turn))
    assert caught.value.reason == reason


def test_broken_inner_json_names_the_place_inside():
    with pytest.raises(Reject) as caught:
        SHAREGPT.map(sharegpt(("function_call", '{"name": "f" "arguments"}')))
    assert (caught.value.reason, caught.value.detail) == (
        "a tool call is not JSON",
        "Expecting ',' at column 14",
    )


def test_data_is_never_run(tmp_path):
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')"
    for row in (
        sharegpt(("function_call", code)),
        {"conversations": code},
        sharegpt(("human", "q"), tools=code),
    ):
        with pytest.raises(Reject):
            SHAREGPT.map(row)
    assert not mark.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"label": True},
        {"label": "false"},
        {"label": 0},
        {"chosen": "x", "rejected": "y"},
        {"rejected_response": "x"},
    ],
)
def test_preference_rows_fit_no_mapper_for_conversations(more):
    for row in (
        {"instruction": "q", "output": "a"},
        sharegpt(("human", "q"), ("gpt", "a")),
        messages(said("user", "q"), said("assistant", "a")),
    ):
        assert any(mapper.fits(row) for mapper in MAPPERS)
        assert not any(mapper.fits({**row, **more}) for mapper in MAPPERS)
        assert any(mapper.fits({**row, "label": "medicine"}) for mapper in MAPPERS)


KEYS = [
    *("instruction", "input", "output", "system", "history", "conversations", "messages", "from", "value"),
    *("role", "content", "tools", "tool_calls", "function", "name", "arguments", "type", "text", "loss"),
    *("human", "assistant", "function_call", "label", "id", "tool_call_id"),
]
WORDS = st.text(max_size=5) | st.sampled_from(["{}", "[]", "user", "assistant", "tool", "text"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_a_row_holds_it_is_mapped_or_rejected(row):
    for mapper in MAPPERS:
        assert mapper.fits(row) in (True, False)
        try:
            mapped = mapper.map(row)
        except Reject:
            continue
        assert all(message.role in ROLES and isinstance(message.content, str) for message in mapped.messages)
