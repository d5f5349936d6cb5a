"""What is certain of an answer while it is written, in every format that has calls or thinking."""

from __future__ import annotations

import pytest

from xtune.chat.partial import so_far, whole
from xtune.chat.show import parts
from xtune.messages import Message
from xtune.templates.catalog import TEMPLATES
from xtune.templates.render import render
from xtune.templates.template import find_template
from xtune.templates.tool_calls import ParsedAnswer

CALL = ({"name": "calculator", "arguments": {"expression": "1 < 2"}},)
TOOL = {"type": "function", "function": {"name": "calculator", "description": "sums", "parameters": {}}}
WITH_TOOLS = sorted(name for name, facts in TEMPLATES.items() if facts.get("tool_calls"))
WORDS = "Let me <tool> see:\n{1: 2} <|and> more"


def written(template: str, *answer: Message) -> str:
    """The last answer as the model of that format writes it."""
    question = Message("user", "What is it?")
    rendered = render([question, *answer], template=template, tools=[TOOL])
    start, end = rendered.loss_spans[-1]
    text = rendered.text[start:end]
    for stop in find_template(template).stop_tokens:
        text = text.removesuffix(stop)
    return text


def answers(template: str) -> list[Message]:
    alone = [Message("assistant", WORDS), Message("assistant", "", tool_calls=CALL)]
    both = [] if template == "llama3_1" else [Message("assistant", "Let me see.", tool_calls=CALL)]
    thinking = [Message("assistant", "Yes.", reasoning="Is it?\n\nIt is.")] if template == "qwen3" else []
    return [*alone, *both, *thinking]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_nothing_of_a_call_is_shown_and_nothing_shown_is_taken_back(name):
    template = find_template(name)
    for message in answers(name):
        if name == "qwen" and message.tool_calls:  # which knows no call without its result
            text = (
                f'Thought: {message.content}\nAction: calculator\nAction Input: {{"expression": "1 < 2"}}\n'
            )
        else:
            text = written(name, message)
        parsed = whole(text, template, tools=True)
        assert (parsed.content, parsed.calls) == (message.content, message.tool_calls)
        assert parsed.reasoning == message.reasoning
        before = ParsedAnswer("")
        for end in range(len(text) + 1):
            now = so_far(text[:end], template, tools=True)
            for part, earlier, final in zip(parts(now), parts(before), parts(parsed), strict=True):
                assert part.startswith(earlier)
                assert final.startswith(part)
            before = now
        if not message.tool_calls:
            # behind its last letter, with which a control token might have begun
            assert so_far(text + "\n", template, tools=True) == parsed


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_without_tools_all_is_words(name):
    template = find_template(name)
    text = '{"name": "f", "parameters": {}}\n<tool_call>\n{"a": 1}'
    assert whole(text, template) == so_far(text, template) == ParsedAnswer(text)


@pytest.mark.parametrize("name", ["chatglm3", "glm4"])
def test_the_line_break_that_glm_begins_with_is_no_part_of_its_answer(name):
    template = find_template(name)
    written = [so_far(text, template).content for text in ("", "\n", "\n Hi", "\n Hi\n")]
    assert written == ["", "", "Hi", "Hi\n"]
    assert whole("\n Hi", template).content == "Hi"


@pytest.mark.parametrize("tools", [False, True])
def test_thinking_that_was_cut_short(tools):
    template = find_template("qwen3")
    assert whole("<think>\nLet me see", template, tools) == ParsedAnswer("", "Let me see")
    assert so_far("<thi", template, tools) == ParsedAnswer("")
    assert so_far("<think>\nLet me see\n</thi", template, tools) == ParsedAnswer("", "Let me see")
    ended = ParsedAnswer("Yes", "Let me see")
    assert so_far("<think>\nLet me see\n</think>\n\nYes", template, tools) == ended


def test_a_final_answer_comes_as_it_is_written_and_is_the_last_word():
    template = find_template("qwen")
    text = "Thought: I know.\nFinal Answer: It is 4."
    assert so_far(text, template, tools=True) == whole(text, template, tools=True) == ParsedAnswer("It is 4.")
    text += "\nAction: calculator\nAction Input: {}"
    assert whole(text, template, tools=True).calls == ()
    assert so_far("It is", template, tools=True).content == "It is"
    assert so_far("Thou", template, tools=True).content == ""
