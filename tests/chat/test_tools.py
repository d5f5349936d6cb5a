"""Tools: what the model is told of a function, what a call comes to, and the turn that is made of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from xtune.chat.answer import ROUNDS, Chat, answer
from xtune.chat.conversation import Conversation, Settings
from xtune.chat.generate import stop_ids
from xtune.chat.show import Silent
from xtune.chat.tools import LONGEST_RESULT, load_tools, run_call
from xtune.chat.turn import Session, take_turn
from xtune.data.encoding.encode import encode
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.template import find_template

HERMES = find_template("qwen2_5")
MINE = '''
from os.path import join

def weather(city: str, days: int = 1) -> dict:
    """
    The weather.

    Args:
        city: where
        days: for how long
    """
    print("looking it up")
    return {"city": city, "sunny": days}

def long() -> str:
    """A long text."""
    return "x" * 100_000

def broken() -> str:
    """Fails."""
    raise KeyError("nothing")

def _hidden():
    pass
'''
CALL = '<tool_call>\n{{"name": "{}", "arguments": {{{}}}}}\n</tool_call>'
SUM = CALL.format("calculator", '"expression": "6 * 7"')


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return str(file)


def run(name: str, tools, allowed=lambda _: False, **arguments) -> str:
    return run_call({"name": name, "arguments": arguments}, tools, allowed)


def test_functions_of_a_file_become_tools(mine, capsys):
    tools = load_tools(f"calculator, {mine}", HERMES)
    assert [tool.name for tool in tools] == ["calculator", "weather", "long", "broken"]
    facts = tools[1].schema["function"]
    assert facts["description"] == "The weather."
    assert facts["parameters"]["properties"]["days"] == {"type": "integer", "description": "for how long"}
    assert facts["parameters"]["required"] == ["city"]
    assert run("weather", tools, city="Köln", days="2") == '{"city": "Köln", "sunny": 2}'
    assert capsys.readouterr().out == ""  # stdout is for answers


def test_errors_become_results(mine):
    tools = load_tools(f"calculator,{mine}", HERMES)
    assert run("broken", tools) == "Error: KeyError: 'nothing'"
    assert run("calculator", tools, expression="1/0") == "Error: ZeroDivisionError: division by zero"
    assert "city: " in run("weather", tools)
    assert "valid integer" in run("weather", tools, city="x", days="many")
    assert "the tools are: calculator, weather" in run("wether", tools)
    result = run("long", tools)
    assert result.startswith("x" * LONGEST_RESULT)
    assert result.endswith("(cut: 100000 characters)")


def test_python_runs_only_if_allowed():
    tools = load_tools("python", HERMES)
    assert run("python", tools, lambda _: True, code="6 * 7") == "42"
    assert "does not allow" in run("python", tools, code="6 * 7")


@pytest.mark.parametrize(
    ("template", "name"), [("internlm2", "interpreter"), ("chatglm3", "interpreter"), ("glm4", "python")]
)
def test_python_has_the_name_by_which_the_format_knows_it(template, name):
    (tool,) = load_tools("python", find_template(template))
    assert tool.name == name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("pyton", "did you mean python?"),
        (",", "No tool is named."),
        ("python,python", "Two tools have the name python"),
        ("nowhere.py", "There is no such file"),
    ],
)
def test_tools_that_are_none(names, message):
    with pytest.raises(UsageError) as raised:
        load_tools(names, HERMES)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "no functions"),
        ("1 / 0", "ZeroDivisionError"),
        ("def f(", "SyntaxError"),
        ("import sys; sys.exit(1)", "SystemExit"),
        ("def f(a: int):\n    'Doc.'", "no description for the argument 'a'"),
        ("def f(a):\n    '''Doc.\n\n    Args:\n        a: it\n    '''", "type hint"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, source, message):
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(UsageError) as raised:
        load_tools(str(file), HERMES)
    assert message in str(raised.value)
    assert str(file) in str(raised.value)


def test_formats_without_tools_are_refused():
    with pytest.raises(UsageError, match="smollm2, has no tools") as raised:
        load_tools("calculator", find_template("smollm2"))
    assert "qwen2_5" in str(raised.value)


class Scripted:
    """A model that writes what it is told to, one text at each call; it keeps what it was given."""

    device, config = (
        "cpu",
        SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=4096)),
    )

    def __init__(self, tokenizer, template, texts):
        self.tokenizer, self.texts, self.given = tokenizer, list(texts), []
        self.stop = stop_ids(tokenizer, template)[0]

    def generate(self, input_ids, streamer, max_new_tokens, stopping_criteria, **_):
        self.given.append(self.tokenizer.decode(input_ids[0]))
        ids = self.tokenizer.encode(self.texts.pop(0), add_special_tokens=False)
        streamer.put(input_ids)
        for number in [*ids, self.stop][:max_new_tokens]:
            if stopping_criteria[0](input_ids, None).all():
                break
            streamer.put(torch.tensor([number]))
        streamer.end()


class Kept(Silent):
    def __init__(self):
        self.told = []

    def answer(self, said):
        self.text = said.content

    def end(self):
        self.told.append(self.text)

    def call(self, call):
        self.told.append(call["name"])

    def result(self, text):
        self.told.append(text)


def turn(tokenizer, texts, names="calculator", template=HERMES, **settings):
    model, show = Scripted(tokenizer, template, texts), Kept()
    tools = load_tools(names, template)
    asked = [Message("user", "How much?")]
    done = answer(Chat(model, tokenizer, template), asked, Settings(**settings), show, tools)
    return done, model, show, tools


def test_a_call_is_run_and_its_result_answered(tokenizer):
    done, model, show, tools = turn(tokenizer, [f"I see.\n{SUM}", "It is 42."])
    call = {"name": "calculator", "arguments": {"expression": "6 * 7"}}
    said = (Message("assistant", "I see.", tool_calls=(call,)), Message("tool", "42", name="calculator"))
    assert done.messages == (*said, Message("assistant", "It is 42."))
    assert done.stopped_by == "stop"
    assert show.told == ["I see.", "calculator", "42", "It is 42."]
    expected = encode(
        [Message("user", "How much?"), *said],
        tokenizer=tokenizer,
        template=HERMES,
        tools=[tool.schema for tool in tools],
        add_generation_prompt=True,
    )
    assert model.given[1] == tokenizer.decode(expected.input_ids)


def test_parallel_calls(tokenizer):
    done, *_ = turn(tokenizer, [f"{SUM}\n{SUM}", "Both 42."])
    assert [message.role for message in done.messages] == ["assistant", "tool", "tool", "assistant"]


def test_calls_without_end_leave_no_turn(tokenizer):
    done, model, *_ = turn(tokenizer, [SUM] * 100)
    assert (done.messages, done.stopped_by) == ((), "calls")
    assert len(model.given) == ROUNDS + 1


def test_a_call_that_cannot_be_read_stays_as_it_is(tokenizer):
    text = '<tool_call>\n{"name": calculator}\n</tool_call>'
    done, _, show, _ = turn(tokenizer, [text])
    assert (done.messages, done.stopped_by) == ((Message("assistant", text),), "bad_call")
    assert show.told == [text]


def test_a_call_cut_short_is_no_call(tokenizer):
    done, *_ = turn(tokenizer, [SUM], max_new_tokens=5)
    assert done.stopped_by == "length"
    assert done.tokens == 5
    assert done.messages[0].tool_calls == ()


def test_a_call_of_react_ends_before_its_result(tokenizer):
    calls = 'Thought: I count.\nAction: calculator\nAction Input: {"expression": "6 * 7"}\nObservation: 43\nThought:'
    final = " I know.\nFinal Answer: It is 42."
    done, model, show, _ = turn(tokenizer, [calls, final], template=find_template("qwen"))
    assert done.messages[1:] == (Message("tool", "42", name="calculator"), Message("assistant", "It is 42."))
    assert done.messages[0].tool_calls[0]["arguments"] == {"expression": "6 * 7"}
    assert model.given[1].endswith("\nObservation: 42\nThought:")
    assert show.told == ["I count.", "calculator", "42", "It is 42."]


def test_interrupted_in_a_tool_leaves_no_turn(tokenizer, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xtune.chat.answer.run_call", interrupted)
    done, *_ = turn(tokenizer, [SUM])
    assert (done.messages, done.stopped_by) == ((), "interrupt")


@pytest.mark.parametrize(
    ("yes", "result"), [(False, "Error: the user does not allow this call."), (True, "42")]
)
def test_where_nobody_can_be_asked_python_runs_only_with_yes(tokenizer, capsys, yes, result):
    tools = load_tools("python", HERMES)
    model = Scripted(tokenizer, HERMES, [CALL.format("python", '"code": "6 * 7"'), "Done."])
    session = Session([Chat(model, tokenizer, HERMES)], tools, yes=yes, as_json=True)
    conversation = Conversation(tools=tuple(tool.schema for tool in tools))
    (after,), _ = take_turn(session, [conversation], "How much?")
    said = capsys.readouterr()
    row = json.loads(said.out)
    assert row["tool_calls"] == [{"name": "python", "arguments": {"code": "6 * 7"}, "result": result}]
    assert (row["answer"], row["stopped_by"]) == ("Done.", "stop")
    assert ("--yes allows it" in said.err) != yes
    assert [message.role for message in after.messages] == ["user", "assistant", "tool", "assistant"]
