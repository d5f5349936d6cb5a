"""What is shown of an answer while it is written, in every format that has calls or thinking."""

from __future__ import annotations

import pytest

from xtune.chat.partial import read_answer, shown, thinking_apart, whole
from xtune.messages import Message
from xtune.templates.catalog import TEMPLATES
from xtune.templates.render import render
from xtune.templates.template import find_template

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
        parsed = read_answer(text, template, tools=True)
        assert (parsed.content.strip(), parsed.calls) == (message.content, message.tool_calls)
        assert parsed.reasoning == message.reasoning
        final = whole(text, parsed, template, tools=True)
        before = ""
        for end in range(len(text) + 1):
            now = shown(text[:end], template, tools=True)
            assert now.startswith(before)
            assert final.startswith(now.rstrip())
            before = now
        assert thinking_apart(final, template)[1].strip() == message.content


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_without_tools_all_is_words(name):
    template = find_template(name)
    text = '{"name": "f", "parameters": {}}\n<tool_call>\n{"a": 1}'
    assert read_answer(text, template).content == shown(text, template) == text
    assert read_answer(text, template).calls == ()


@pytest.mark.parametrize("name", ["chatglm3", "glm4"])
def test_the_line_break_that_glm_begins_with_is_no_part_of_its_answer(name):
    template = find_template(name)
    assert [shown(text, template) for text in ("", "\n", "\n Hi", "\n Hi\n")] == ["", "", "Hi", "Hi\n"]
    assert read_answer("\n Hi", template).content == "Hi"


def test_thinking_that_was_cut_short():
    template = find_template("qwen3")
    parsed = read_answer("<think>\nLet me see", template)
    assert (parsed.reasoning, parsed.content) == ("Let me see", "")
    assert thinking_apart("<thi", template) == ("", "")
    assert thinking_apart("<think>\nLet me see\n</think>\n\nYes", template) == ("Let me see", "Yes")
