"""MSAgent-Bench's blocks as calls and results."""

import json

import pytest

from xtune.data.findings import Findings, Reject
from xtune.data.mappers import MAPPERS
from xtune.data.mappers.msagent import MSAGENT
from xtune.messages import Message

ASK, CALL = {"from": "user", "value": "q"}, {"name": "f", "arguments": {"text": "x `y`"}}
THINK = (
    '<|startofthink|>```JSON\n{"api_name": "f", "url": "http://f", "parameters": {"text": "x `y`"}}\n```'
    "<|endofthink|>"
)
EXEC = '<|startofexec|>```JSON\n{"r": 1}\n```<|endofexec|>'
CALLING, RESULT = Message("assistant", "", tool_calls=(CALL,)), Message("tool", '{"r": 1}', name="f")


def row(answer, *more, system=None):
    start = [{"from": "system", "value": system}] if system else []
    return {"conversations": [*start, ASK, {"from": "assistant", "value": answer}, *more]}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{THINK}\n\n{EXEC}\nThe answer.", [CALLING, RESULT, Message("assistant", "The answer.")]),
        (f"{THINK}\n\n{EXEC}", [CALLING, RESULT]),
        (
            f"I look.\n{THINK}{EXEC}{THINK}{EXEC}Done.",
            [
                Message("assistant", "I look.", tool_calls=(CALL,)),
                RESULT,
                CALLING,
                RESULT,
                Message("assistant", "Done."),
            ],
        ),
        (
            f"{THINK}\n{THINK}{EXEC}{EXEC}Done.",
            [
                Message("assistant", "", tool_calls=(CALL, CALL)),
                RESULT,
                RESULT,
                Message("assistant", "Done."),
            ],
        ),
        (
            '<|startofthink|>I need f. {"api_name": "g", "parameters": {}}<|endofthink|>'
            "<|startofexec|>plain<|endofexec|>a",
            [
                Message("assistant", "", reasoning="I need f.", tool_calls=({"name": "g", "arguments": {}},)),
                Message("tool", "plain", name="g"),
                Message("assistant", "a"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("written", [list, json.dumps, str])
def test_blocks(answer, expected, written):
    given = row(answer)
    given["conversations"] = written(given["conversations"])
    assert [mapper for mapper in MAPPERS if mapper.kind is MSAGENT.kind and mapper.fits(given)] == [MSAGENT]
    assert list(MSAGENT.map(given, Findings()).messages[1:]) == expected


def test_tools_are_read_out_of_the_system_prompt():
    plugin = {
        "name": "f",
        "description": "Does f.",
        "parameters": [{"name": "text", "description": "Of what.", "required": "True"}],
    }
    listed = f"Call plugins where you need them:\n1. {json.dumps(plugin)}\n\n2. {json.dumps(plugin)}\n"
    sample = MSAGENT.map(row(THINK, system=listed), Findings())
    assert sample.messages[0] == Message("system", "Call plugins where you need them:")
    assert sample.tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {"text": {"description": "Of what."}},
        "required": ["text"],
    }
    assert len(sample.tools) == 2
    # Words that cannot be told from the list stay where they are.
    whole = listed + 'Answer with {"a": 1}.'
    sample = MSAGENT.map(row(THINK, system=whole), Findings())
    assert (sample.messages[0].content, len(sample.tools)) == (whole, 2)
    # A parameter in a list that is cut off looks like a tool.
    broken = listed[: listed.index("]")]
    sample = MSAGENT.map(row(THINK, system=broken), Findings())
    assert (sample.messages[0].content, sample.tools) == (broken, ())


def test_loss_of_a_turn_is_that_of_its_parts():
    given = row(THINK + EXEC + "Done.")
    given["conversations"][1]["loss"] = False
    messages = MSAGENT.map(given, Findings()).messages
    assert [message.loss for message in messages if message.role == "assistant"] == [False, False]


@pytest.mark.parametrize(
    ("answer", "defect", "reason"),
    [
        ("<|startofthink|>{}", "wrong_type", "a think or exec block is not closed"),
        (f"{THINK}<|endofexec|>", "wrong_type", "a think or exec block is not closed"),
        ("<|startofthink|>```JSON\n{broken\n```<|endofthink|>", "broken_json", "a tool call is not JSON"),
        ("<|startofthink|>I wonder.<|endofthink|>", "broken_json", "a tool call is not JSON"),
        ('<|startofthink|>{"name": "f"}<|endofthink|>', "wrong_type", "a tool call has no name"),
    ],
)
def test_broken_blocks_are_rejected(answer, defect, reason):
    with pytest.raises(Reject) as caught:
        MSAGENT.map(row(answer), Findings())
    assert (caught.value.defect, caught.value.reason) == (defect, reason)
