"""MOSS's conversations: the tokens go, what they tell apart stays."""

import pytest

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.moss import MOSS
from xtune.messages import Message

META = (
    "You are MOSS.\n- Inner thoughts: enabled.\n- Web search: enabled. API: Search(query)\n"
    "- Calculator: enabled. API: Calculate(expression)\n- Equation solver: disabled.\n"
)


def turn(human="q", thoughts="None", commands="None", results="None", moss="a"):
    return {
        "Human": f"<|Human|>: {human}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {thoughts}<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": f"<|Results|>:\n{results}\n<eor>\n",
        "MOSS": f"<|MOSS|>: {moss}<eom>\n",
    }


def mapped(*turns):
    chat = {f"turn_{number}": turn for number, turn in enumerate(turns, start=1)}
    return MOSS.map({"meta_instruction": META, "chat": chat}, Findings())


def said(*turns):
    system, *messages = mapped(*turns).messages
    assert system == Message("system", META.rstrip("\n"))
    return messages


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


def test_words_and_thoughts():
    assert said(turn("q <sup> ?", moss="  a<eo>\n\n| b"), turn("more", "I think.", moss="b")) == [
        Message("user", "q <sup> ?"),
        Message("assistant", "  a<eo>\n\n| b"),
        Message("user", "more"),
        Message("assistant", "b", reasoning="I think."),
    ]


def test_turns_are_taken_by_their_number():
    chat = {f"turn_{number}": turn(str(number)) for number in (10, 9, 2, 1)}
    messages = MOSS.map({"chat": chat}, Findings()).messages
    assert [message.content for message in messages[::2]] == ["1", "2", "9", "10"]


@pytest.mark.parametrize(
    ("commands", "results", "calls", "answers"),
    [
        (
            'Calculate("1+2")',
            "Calculate(\"1+2\") => '3'",
            [call("Calculate", expression="1+2")],
            [("Calculate", "'3'")],
        ),
        (
            'Search("a, b"), Search("say \\"c\\"")',
            'Search("a, b") =>\n<|1|>: \'x => y\'\nSearch("say \\"c\\"") =>\n<|2|>: \'z\'',
            [call("Search", query="a, b"), call("Search", query='say "c"')],
            [("Search", "<|1|>: 'x => y'"), ("Search", "<|2|>: 'z'")],
        ),
        (
            'Search("a"), Calculate("1")',
            "It all went well.",
            [call("Search", query="a"), call("Calculate", expression="1")],
            [("Search", "It all went well.")],
        ),
    ],
)
def test_commands_are_calls_and_results_are_the_tools(commands, results, calls, answers):
    assert said(turn(thoughts="I look.", commands=commands, results=results)) == [
        Message("user", "q"),
        Message("assistant", "", reasoning="I look.", tool_calls=tuple(calls)),
        *(Message("tool", content, name=name) for name, content in answers),
        Message("assistant", "a"),
    ]


def test_tools_are_those_the_meta_instruction_enables():
    search, calculator = (tool["function"] for tool in mapped(turn()).tools)
    assert (search["name"], search["description"]) == ("Search", "Web search")
    assert calculator["parameters"]["required"] == ["expression"]


@pytest.mark.parametrize(
    ("given", "defect", "reason"),
    [
        (turn(commands="look it up"), "wrong_type", 'Commands are not of the form Name("text")'),
        (turn(commands='Search("a" "b")'), "wrong_type", 'Commands are not of the form Name("text")'),
        (turn(commands="Search(open('f'))"), "wrong_type", 'Commands are not of the form Name("text")'),
        (
            turn(commands='Draw("a")'),
            "misplaced_tool",
            "a command that the meta instruction does not enable",
        ),
        (
            turn(commands='Search("a", "b")'),
            "wrong_type",
            "a command with more or fewer arguments than its API",
        ),
        (turn(commands='Search("a")'), "misplaced_tool", "a command without a result"),
        (turn(results="r"), "misplaced_tool", "a result without a command"),
        (turn(moss="a<eom>\n<|Human|>: q<eoh>\n<|MOSS|>: b"), "wrong_type", "MOSS holds several parts"),
        ({"Human": "q"}, "wrong_columns", 'no column "MOSS"'),
    ],
)
def test_what_cannot_be_told_is_rejected(given, defect, reason):
    with pytest.raises(Reject) as caught:
        mapped(given)
    assert (caught.value.defect, caught.value.reason) == (defect, reason)
