"""Calls of every format, written by a chat template and read back."""

from dataclasses import replace

import pytest

from tests.data.mappers.examples import EXAMPLES
from xtune.data.check import check
from xtune.data.findings import Findings
from xtune.data.mappers import MAPPERS
from xtune.messages import Sample
from xtune.templates.render import render
from xtune.templates.template import find_template
from xtune.templates.tool_calls import parse_tool_calls

CASES = [
    pytest.param(sample, id=f"{mapper.name}-{number}")
    for mapper in MAPPERS
    if mapper.kind is Sample
    for number, row in enumerate(EXAMPLES[mapper.name])
    if "weather" in str(row) or mapper.name == "moss"
    for sample in [check(mapper.map(row, Findings()), Findings())]
]


def test_every_format_with_calls_is_among_the_cases():
    assert {case.id.split("-")[0] for case in CASES} == {"sharegpt", "messages", "msagent", "moss", "glaive"}


@pytest.mark.parametrize("name", ["internlm2", "qwen3", "chatglm3"])
@pytest.mark.parametrize("sample", CASES)
def test_there_and_back(sample, name):
    template = find_template(name)
    messages = sample.messages
    if "<think>" not in template.guarded_tokens:  # the format has no place for reasoning
        messages = [replace(turn, reasoning=None) for turn in messages]
    rendered = render(messages, template=template, tools=sample.tools)
    written = [parse_tool_calls(rendered.text[start:end], template) for start, end in rendered.loss_spans]
    learnt = [turn for turn in messages if turn.role == "assistant" and turn.loss]
    assert [turn.calls for turn in written] == [turn.tool_calls for turn in learnt]
    assert [turn.content.strip() for turn in written] == [turn.content for turn in learnt]
    assert all(tool["function"]["name"] in rendered.text for tool in sample.tools)
