"""What a result's chat_template.jinja holds works without xtune: transformers' renderer writes the same from it."""

from __future__ import annotations

import pytest

from xtune.templates.render import render
from xtune.templates.template import find_template, template_names, with_variables

PLAIN = [
    {"role": "user", "content": "Hello <b>&'\"!"},
    {"role": "assistant", "content": "你好"},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京's", "days": 2}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "It's <now>",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
WITH_TOOLS = [
    {"role": "user", "content": "How is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": '{"temperature": 22}'},
    {"role": "assistant", "content": "Fine."},
]


@pytest.mark.parametrize("name", template_names())
def test_transformers_write_the_same(name, tokenizer):
    template = find_template(name)
    dialogues = [(PLAIN, None)] + ([(WITH_TOOLS, TOOLS)] if template.tool_calls else [])
    for messages, tools in dialogues:
        for prompt, turns in ((False, messages), (True, messages[:1])):
            ours = render(turns, template=template, tools=tools, add_generation_prompt=prompt).text
            theirs = tokenizer.apply_chat_template(
                turns,
                tools=tools,
                chat_template=template.standalone,
                add_generation_prompt=prompt,
                tokenize=False,
            )
            assert theirs == ours


def test_chosen_variables_go_along(tokenizer):
    template = with_variables(find_template("qwen3"), {"enable_thinking": False})
    written = tokenizer.apply_chat_template(
        PLAIN[:1], chat_template=template.standalone, add_generation_prompt=True, tokenize=False
    )
    assert written.endswith("<think>\n\n</think>\n\n")
    assert written == render(PLAIN[:1], template=template, add_generation_prompt=True).text
