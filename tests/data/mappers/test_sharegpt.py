"""ShareGPT's rows in the shapes they come in, as messages."""

import json

import pytest

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.messages import MESSAGES
from xtune.data.mappers.sharegpt import SHAREGPT
from xtune.messages import Message, Sample

SYSTEM, USER, ANSWER = Message("system", "s"), Message("user", "q"), Message("assistant", "a")
CALL = {"name": "f", "arguments": {"x": 1}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALLING = Message("assistant", "", tool_calls=(CALL,))


def row(*turns, **columns):
    return {"conversations": [{"from": role, "value": value} for role, value in turns], **columns}


def mapped(row) -> Sample:
    assert SHAREGPT.fits(row)
    return SHAREGPT.map(row, Findings())


@pytest.mark.parametrize("mapper", [SHAREGPT, MESSAGES])
@pytest.mark.parametrize(
    ("name", "role"),
    [(name, "user") for name in ("human", "Human", "user", "USER", "prompter")]
    + [(name, "assistant") for name in ("gpt", "bot", "chatgpt", "bard", "assistant", "MOSS", "Assistant")]
    + [(name, "system") for name in ("system", "System", "developer")]
    + [(name, "tool") for name in ("observation", "tool", "function", "environment", "ipython")],
)
def test_roles_in_the_wild(mapper, name, role):
    given = row((name, "x")) if mapper is SHAREGPT else {"messages": [{"role": name, "content": "x"}]}
    assert mapper.fits(given)
    assert mapper.map(given, Findings()).messages == (Message(role, "x"),)


TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    "given",
    [
        {"conversations": TURNS},
        {"conversation": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        {"conversation": [{"human": "q", "assistant": "a"}]},
        {"conversation": [{"user": "q", "assistant": "a"}]},
        {"conversations": json.dumps(TURNS)},
        {"conversations": str(TURNS)},
    ],
)
def test_layouts(given):
    assert mapped(given).messages == (USER, ANSWER)
    earlier = {"system": "s", "history": [["q0", "a0"]]}
    before = (SYSTEM, Message("user", "q0"), Message("assistant", "a0"))
    assert mapped({**given, **earlier}).messages == (*before, USER, ANSWER)


def test_system_prompt_in_both_places_stands_once():
    assert mapped(row(("system", "s"), ("human", "q"), ("gpt", "a"), system="s")).messages == (
        SYSTEM,
        USER,
        ANSWER,
    )


@pytest.mark.parametrize(
    "tools", [[TOOL["function"]], [TOOL], json.dumps([TOOL["function"]]), json.dumps([TOOL])]
)
@pytest.mark.parametrize(
    "call", [json.dumps(CALL), json.dumps({**CALL, "arguments": '{"x": 1}'}), CALL, [CALL]]
)
def test_tool_calls(tools, call):
    given = row(("human", "q"), ("function_call", call), ("observation", "r"), ("gpt", "a"), tools=tools)
    assert mapped(given) == Sample((USER, CALLING, Message("tool", "r", name="f"), ANSWER), (TOOL,))


def test_calls_in_a_row_are_one_message_and_are_answered_in_order():
    calls = [{"name": name, "arguments": {}} for name in ("f", "g")]
    turns = [*(("function_call", json.dumps(call)) for call in calls), *[("observation", "r")] * 3]
    got = mapped(row(("human", "q"), ("gpt", "I look."), *turns)).messages
    assert got[1] == Message("assistant", "I look.", tool_calls=tuple(calls))
    assert [message.name for message in got[2:]] == ["f", "g", None]


def test_chatglm3_call_and_result_in_one_turn():
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "I look."},
        {"role": "tool", "name": "f", "parameters": {"x": 1}, "observation": {"y": 2}},
        {"role": "assistant", "content": "a"},
    ]
    assert mapped({"conversations": turns, "tools": [TOOL["function"]]}) == Sample(
        (
            USER,
            Message("assistant", "I look.", tool_calls=(CALL,)),
            Message("tool", '{"y": 2}', name="f"),
            ANSWER,
        ),
        (TOOL,),
    )


@pytest.mark.parametrize("written", [" ```python\ntool_call(x=1)\n```", '{"x": 1}'])
def test_chatglm_call_as_metadata(written):
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "metadata": "f", "content": written},
        {"role": "observation", "content": "r"},
        {"role": "assistant", "metadata": "", "content": "a"},
    ]
    expected = (USER, CALLING, Message("tool", "r", name="f"), ANSWER)
    assert mapped({"conversations": turns}).messages == expected
    for wrong in ("```python\ntool_call(x=open('file'))\n```", "{", "", None, "I call f."):
        turns[1]["content"] = wrong
        with pytest.raises(Reject, match="no call in ChatGLM's form"):
            mapped({"conversations": turns})


def test_broken_inner_json_names_the_place_inside():
    with pytest.raises(Reject) as caught:
        mapped(row(("function_call", '{"name": "f" "arguments"}')))
    assert (caught.value.defect, caught.value.reason, caught.value.detail) == (
        "broken_json",
        "a tool call is not JSON",
        "Expecting ',' at column 14",
    )


def test_data_is_never_run(tmp_path):
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')"
    for given in (
        row(("function_call", code)),
        {"conversations": code},
        {"conversations": f"[{{'from': 'human', 'value': {code}}}]"},
        row(("human", "q"), tools=code),
    ):
        with pytest.raises(Reject):
            SHAREGPT.map(given, Findings())
    assert not mark.exists()
