"""Formats that show earlier turns otherwise than they were written are trained one turn a sample."""

from __future__ import annotations

from xtune.data.encoding.turns import split_turns
from xtune.messages import Message, Sample
from xtune.templates.render import render
from xtune.templates.template import find_template

CONVERSATION = Sample(
    (
        Message("system", "Be brief."),
        Message("user", "2 + 2?"),
        Message("assistant", "4", reasoning="two and two"),
        Message("user", "And 3 + 3?"),
        Message(
            "assistant", "", reasoning="ask", tool_calls=({"name": "add", "arguments": {"a": 3, "b": 3}},)
        ),
        Message("tool", "6", name="add"),
        Message("assistant", "6", reasoning="it says six"),
        Message("user", "Thanks"),
        Message("assistant", "Welcome", reasoning="polite", loss=False),
    ),
    source="file:1",
)


def test_every_thought_is_learnt_once_and_every_prompt_is_what_the_model_will_see():
    template = find_template("qwen3")
    parts = split_turns(CONVERSATION, template)
    learnt = []
    for part in parts:
        rendered = render(part.messages, template=template)
        learnt += [rendered.text[start:end] for start, end in rendered.loss_spans]
        first = next(
            index
            for index, message in enumerate(part.messages)
            if message.role == "assistant" and message.loss
        )
        prompt = render(part.messages[:first], template=template, add_generation_prompt=True).text
        assert rendered.text[: rendered.loss_spans[0][0]] == prompt
    assert [part.source for part in parts] == ["file:1"] * 2  # the last turn carries no loss
    for thought in ("two and two", "ask", "it says six"):
        assert sum(thought in text for text in learnt) == 1
    assert not any("polite" in text for text in learnt)


def test_other_formats_keep_a_conversation_whole():
    assert split_turns(CONVERSATION, find_template("qwen2_5")) == [CONVERSATION]
    single = Sample(CONVERSATION.messages[:3])
    assert split_turns(single, find_template("qwen3")) == [single]
