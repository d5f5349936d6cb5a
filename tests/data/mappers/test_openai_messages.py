"""OpenAI's messages in the shapes they come in, as messages."""

import json

import pytest

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.messages import MESSAGES
from xtune.messages import Message, Sample

SYSTEM, USER, ANSWER = Message("system", "s"), Message("user", "q"), Message("assistant", "a")
CALL = {"name": "f", "arguments": {"x": 1}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def row(*turns, **columns):
    return {"messages": list(turns), **columns}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def mapped(row, found=None) -> Sample:
    assert MESSAGES.fits(row)
    return MESSAGES.map(row, found or Findings())


def test_layouts():
    turns = [said("developer", "s"), said("user", "q"), said("assistant", "a")]
    for given in (turns, {"messages": turns}, {"messages": json.dumps(turns)}, {"messages": str(turns)}):
        assert mapped(given).messages == (SYSTEM, USER, ANSWER)


@pytest.mark.parametrize("tools", [[TOOL["function"]], [TOOL], json.dumps([TOOL])])
def test_places_of_tools(tools):
    turns = [said("user", "q"), said("assistant", "a")]
    for given in (
        row(*turns, tools=tools),
        row(*turns, functions=tools),
        row(said("system", "s", tools=tools), *turns),
    ):
        assert mapped(given).tools == (TOOL,)


@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}])
@pytest.mark.parametrize(
    "named_by", [{"tool_call_id": "2"}, {"name": "g"}, {"name": "g", "tool_call_id": "2"}]
)
def test_parallel_calls_and_their_results(arguments, named_by):
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, name in (("1", "f"), ("2", "g"))
    ]
    given = row(
        said("user", "q"),
        said("assistant", None, tool_calls=calls),
        said("tool", "second", **named_by),
        said("tool", "first"),
        said("assistant", "a", tool_calls=None),
    )
    found = Findings()
    assert mapped(given, found).messages == (
        USER,
        Message("assistant", "", tool_calls=(CALL, {**CALL, "name": "g"})),
        Message("tool", "second", name="g"),
        Message("tool", "first", name="f"),
        ANSWER,
    )
    assert not found.repairs


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "r"}], "r"),
        ([{"city": "Wien"}], '[{"city": "Wien"}]'),
        ({"city": "Zürich"}, '{"city": "Zürich"}'),
        (None, ""),
    ],
)
def test_results(content, expected):
    calling = said("assistant", None, tool_calls=[CALL])
    messages = mapped(row(said("user", "q"), calling, said("tool", content), said("assistant", "a"))).messages
    assert messages[2] == Message("tool", expected, name="f")


def test_xtuner_for_internlm2_agents():
    found = Findings()
    given = row(
        said("user", "q"),
        said("assistant", "wait", function_call={"name": "f", "parameters": {"x": 1}}),
        said("function", {"r": 2}, name="f"),
        said("assistant", "I compute.", code_interpreter_call="```python\n1 + 1\n```"),
        said("code_interpreter", "2"),
        said("assistant", "a"),
        functions=[TOOL["function"]],
        code_interpreter="Runs Python.",
    )
    sample = mapped(given, found)
    code = {"name": "interpreter", "arguments": {"code": "1 + 1"}}
    assert sample.messages == (
        USER,
        Message("assistant", "wait", tool_calls=(CALL,)),
        Message("tool", '{"r": 2}', name="f"),
        Message("assistant", "I compute.", tool_calls=(code,)),
        Message("tool", "2", name="interpreter"),
        ANSWER,
    )
    assert list(found.repairs) == ["a tool's result written as JSON text"]
    assert sample.tools[0] == TOOL
    assert sample.tools[1]["function"]["description"] == "Runs Python."
    with pytest.raises(Reject, match="files"):
        mapped(row(said("user", "q", files=[{"path": "table.csv"}])))


def test_content_parts():
    parts = [
        {"type": "reasoning", "value": "r"},
        {"type": "text", "text": "a "},
        {"type": "text", "value": "b"},
        {"type": "tool_call", "value": json.dumps(CALL)},
    ]
    [message] = mapped(row(said("assistant", parts))).messages
    assert message == Message("assistant", "a b", reasoning="r", tool_calls=(CALL,))


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning(key):
    assert mapped(row(said("assistant", "a", **{key: "r"}))).messages[0].reasoning == "r"
    assert mapped(row(said("assistant", "a", **{key: None}))).messages[0].reasoning is None


@pytest.mark.parametrize("key", ["loss", "loss_weight", "weight"])
@pytest.mark.parametrize(
    ("value", "loss"),
    [(value, False) for value in (False, "False", "false", 0, 0.0, "0")]
    + [(value, True) for value in (True, "True", 1, 1.0, None)],
)
def test_loss_flag(key, value, loss):
    given = row(said("user", "q", **{key: value}), said("assistant", "a", **{key: value}))
    assert [message.loss for message in mapped(given).messages] == [True, loss]


@pytest.mark.parametrize(
    ("turn", "defect", "reason"),
    [
        (said("critic", "x"), "unknown_role", 'unknown role "critic"'),
        (said("pretrain", "x"), "unknown_role", 'unknown role "pretrain"'),
        ({"content": "x"}, "unknown_role", "a turn has no role"),
        (said(3, "x"), "unknown_role", "a role is a number, not text"),
        ("x", "wrong_type", "a turn is text, not an object"),
        (said("user", {"a": 1}), "wrong_type", "the content of a turn is an object, not text"),
        (
            said("user", [{"type": "image_url", "image_url": "x"}]),
            "media",
            "a turn holds image url: only text can be trained on",
        ),
        (said("user", [{"type": "hologram"}]), "wrong_type", "a part of the content is of an unknown type"),
        (said("assistant", "a", loss=0.5), "wrong_type", "loss is neither true nor false"),
        (said("assistant", "a", loss="perhaps"), "wrong_type", "loss is neither true nor false"),
        (said("user", "q", tool_calls=[CALL]), "misplaced_tool", "a user turn calls a tool"),
        (said("assistant", "", tool_calls=CALL), "wrong_type", "tool_calls is an object, not a list"),
        (said("assistant", "", tool_calls=[{"arguments": {}}]), "wrong_type", "a tool call has no name"),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": "[1]"}]),
            "wrong_type",
            "the arguments of a tool call are a list, not an object",
        ),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": "{'x': 1}"}]),
            "broken_json",
            "the arguments of a tool call is not JSON",
        ),
        (
            said("assistant", "", tool_calls=[{"name": "f", "arguments": '{"x": NaN}'}]),
            "broken_json",
            "the arguments of a tool call is not JSON: NaN is not a JSON number",
        ),
    ],
)
def test_rejects(turn, defect, reason):
    with pytest.raises(Reject) as caught:
        MESSAGES.map(row(turn), Findings())
    assert (caught.value.defect, caught.value.reason) == (defect, reason)
