"""Glaive's conversations, whose calls are quoted in a way that is no JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.glaive import GLAIVE
from xtune.messages import Message

TOOL = {"name": "f", "description": "Does f.", "parameters": {"type": "object", "properties": {}}}
SYSTEM = f"SYSTEM: You have functions. Use them -\n{json.dumps(TOOL, indent=4)}\n\n{json.dumps(TOOL)}\n\n"


def mapped(*calls, system=SYSTEM):
    words = "".join(f" <functioncall> {call}" for call in calls)
    chat = (
        f"USER: q\n\nmore\n\n\nASSISTANT: Wait.{words} <|endoftext|>\n\n\nFUNCTION RESPONSE: r\n\n\n"
        "ASSISTANT: a: USER: <b> <|endoftext|>\n\n\n"
    )
    row = {"system": system, "chat": chat}
    assert GLAIVE.fits(row)
    return GLAIVE.map(row, Findings())


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("""{"name": "f", "arguments": '{"x": 1, "y": true}'}""", {"x": 1, "y": True}),
        ("""{"name": "f", "arguments": {"x": 1}}""", {"x": 1}),
        (r"""{"name": "f", "arguments": "{\"x\": 1}"}""", {"x": 1}),
        (r"""{"name": "f", "arguments": '{"x": "it\'s"}'}""", {"x": "it's"}),
        ("""{"name": "f", "arguments": '{"x": "it's"}'}""", {"x": "it's"}),
        ("""{"name": "f", "arguments": '{}'}""", {}),
        ("""{"name": "f"}""", {}),
    ],
)
def test_quotes_of_a_call(call, arguments):
    sample = mapped(call)
    assert sample.messages == (
        Message("system", "You have functions. Use them -"),
        Message("user", "q\n\nmore"),
        Message("assistant", "Wait.", tool_calls=({"name": "f", "arguments": arguments},)),
        Message("tool", "r", name="f"),
        Message("assistant", "a: USER: <b>"),
    )
    assert sample.tools == ({"type": "function", "function": TOOL},) * 2


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none(), max_size=3))
def test_arguments_as_they_were(arguments):
    call = {"name": "f", "arguments": json.dumps(arguments)}
    for written in (json.dumps(call), repr(call)):
        assert mapped(written).messages[2].tool_calls[0]["arguments"] == arguments


def test_a_system_prompt_without_functions_is_words():
    sample = mapped(system="SYSTEM: You help.\n\n")
    assert (sample.messages[0], sample.tools) == (Message("system", "You help."), ())


def test_rejects():
    for call in (
        "{'name': 'f', 'arguments': open('file')}",
        """{"name": "f", "arguments": '{"x": }'}""",
        "f(1)",
        "",
    ):
        with pytest.raises(Reject) as caught:
            mapped(call)
        assert caught.value.reason.startswith(
            ("a tool call is not JSON", "the arguments of a tool call is not")
        )
    with pytest.raises(Reject, match="does not start with USER"):
        GLAIVE.map({"system": "", "chat": "Hello. USER: q"}, Findings())
