"""What is learnt of a turn, read back, is the turn; what is no whole call is an error that says so."""

import json
from contextlib import suppress
from keyword import iskeyword

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xtune.errors import DataError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template, template_names
from xtune.templates.tool_calls import PARSERS, ParsedAnswer, parse_tool_calls

NAMES = [name for name in template_names() if find_template(name).tool_calls]
PARALLEL = ("internlm2", "qwen2_5", "qwen3")
TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}
QUESTION = Message("user", "Go.")
WORDS = [
    "\n",
    " ",
    "'",
    '"',
    "\\",
    "\\ufdd0",
    "\ufdd0",
    "```",
    "{",
    "}",
    "Thought: ",
    "<|im_end|>",
    "</s>",
    "中文",
    "people",
]
TEXT = st.text(max_size=12) | st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
# What begins a call or thinking: as words it cannot be told from the real one.
SYNTAX = [
    *("<|action_start|>", "<tool_call>", "<|assistant|>", "<think>", "</think>", "\n```"),
    *("Thought:", "\nAction:", "\nFinal Answer:"),
]
IDENTIFIERS = st.from_regex(r"[a-z_城][a-z0-9_市]{0,8}", fullmatch=True).filter(
    lambda name: not iskeyword(name)
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=5,
)
CALLS = st.fixed_dictionaries(
    {"name": IDENTIFIERS, "arguments": st.dictionaries(IDENTIFIERS, VALUES, max_size=3)}
) | st.fixed_dictionaries(
    {"name": st.just("interpreter"), "arguments": st.fixed_dictionaries({"code": TEXT})}
)


def trimmed(name: str, text: str) -> str:
    """As the format itself keeps it."""
    if name == "qwen":
        return text.lstrip("\n").rstrip()
    return text.strip() if name in ("chatglm3", "llama3_1") else text


def learnt_of(name, message, before=(QUESTION,)) -> str:
    rendered = render([*before, message], template=name, tools=[TOOL])
    start, end = rendered.loss_spans[-1]
    return rendered.text[start:end]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_round_trip(name, data):
    calls = tuple(data.draw(st.lists(CALLS, max_size=2 if name in PARALLEL else 1)))
    content = "" if name == "llama3_1" and calls else data.draw(TEXT)
    reasoning = data.draw(st.none() | TEXT) if name == "qwen3" else None
    codes = [call["arguments"].get("code") for call in calls if call["name"] == "interpreter"]
    assume(
        not any(token in text for token in SYNTAX for text in (content, reasoning or "", *map(str, codes)))
    )
    assume(not any(call["name"] == "interpreter" and list(call["arguments"]) != ["code"] for call in calls))
    learnt = learnt_of(name, Message("assistant", content, reasoning, calls))
    expected = ParsedAnswer(trimmed(name, content), reasoning, calls)
    if name == "qwen3":
        expected = ParsedAnswer(content.lstrip("\n"), (reasoning or "").strip("\n") or None, calls)
    parsed = parse_tool_calls(learnt, find_template(name))
    assert parsed == expected
    for read, call in zip(parsed.calls, calls, strict=True):  # True is not 1, and the order of keys counts
        assert json.dumps(read["arguments"]) == json.dumps(call["arguments"])


def test_a_turn_that_goes_on_after_a_result():
    call = Message("assistant", "a", tool_calls=({"name": "f", "arguments": {}},))
    before = (QUESTION, call, Message("tool", "r", name="f"))
    template = find_template("qwen")
    assert parse_tool_calls(learnt_of("qwen", call, before), template) == ParsedAnswer(
        "a", None, call.tool_calls
    )
    final = learnt_of("qwen", Message("assistant", "b"), before)
    assert parse_tool_calls(final, template) == ParsedAnswer("b")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("qwen2_5", "no call", ParsedAnswer("no call")),
        ("qwen", "a\nFinal Answer: b<|im_end|>", ParsedAnswer("a\nFinal Answer: b")),
        ("llama3_1", '{"name": "Bob", "age": 3}<|eot_id|>', ParsedAnswer('{"name": "Bob", "age": 3}')),
        (
            "llama3_1",
            '<|python_tag|>{"name": "f", "parameters": {}}<|eom_id|>',
            ParsedAnswer("", None, ({"name": "f", "arguments": {}},)),
        ),
        ("chatglm3", " \n Hi", ParsedAnswer("Hi")),  # as sentencepiece decodes it
        ("glm4", "\na<|assistant|>\nb", ParsedAnswer("a\n\nb")),
        (
            "internlm2",  # as chat_format.md shows it
            "a\n<|action_start|><|interpreter|>\n```python\n1\n```<|action_end|>\n<|im_end|>",
            ParsedAnswer("a\n", None, ({"name": "interpreter", "arguments": {"code": "1"}},)),
        ),
    ],
)
def test_what_models_write(name, text, expected):
    assert parse_tool_calls(text, find_template(name)) == expected


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": {}}', "</tool_call> is missing"),
        ("qwen2_5", '<tool_call>\n{"name": "f", "arguments": {}', "not JSON"),
        (
            "qwen2_5",
            '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
            "NaN is not a JSON number",
        ),
        (
            "qwen2_5",
            '<tool_call>{"name": "f", "arguments": {"a": 1, "a": 2}}</tool_call>',
            "a key stands twice",
        ),
        ("qwen2_5", '<tool_call>{"arguments": {}}</tool_call>', "no name"),
        (
            "qwen2_5",
            '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>',
            "arguments of a call are no object",
        ),
        ("qwen2_5", '<tool_call>{"name": "f", "arguments": {}}</tool_call> so', "<tool_call> is missing"),
        ("qwen2_5", "<tool_call>" + "[" * 100_000, "not JSON"),
        ("qwen3", "<think>on and on", "<think> is not closed"),
        ("internlm2", '<|action_start|>{"name": "f", "parameters": {}}<|action_end|>', "plugin"),
        ("internlm2", '<|action_start|><|plugin|>{"name": "f", "parameters": {}}', "action_end"),
        ("internlm2", '<|action_start|><|plugin|>{"name": "f", "arguments": {}}<|action_end|>', "parameters"),
        ("chatglm3", "f\ntool_call(a=1)", "not between"),
        ("chatglm3", "f\n```python\ntool_call(1)\n```", "named arguments alone"),
        ("chatglm3", "f\n```python\ntool_call(**{'a': 1})\n```", "not plain Python"),
        ("chatglm3", "f\n```python\nos.system('rm')\n```", "named arguments alone"),
        ("chatglm3", "f\n```python\ntool_call(a=__import__('os'))\n```", "not plain Python"),
        ("chatglm3", "f\n```python\ntool_call(a=(1, 2))\n```", "JSON has no such values"),
        ("chatglm3", "f\n```python\ntool_call(a=1, a=2)\n```", "a key stands twice"),
        ("chatglm3", "f\n```python\ntool_call(a=1\n```", "not plain Python"),
        ("glm4", "f\n{", "not JSON"),
        ("glm4", "f\n[1]", "no object"),
        ("glm4", "f\n{} so", "behind a call"),
        ("llama3_1", '{"name": "f", "parameters": {}', "not JSON"),
        ("llama3_1", '{"name": "f", "parameters": 1}', "no object"),
        ("llama3_1", '{"name": "f", "parameters": {}} so', "behind a call"),
        ("llama3_1", "<|python_tag|>print(1)", "not JSON"),
        ("qwen", "Thought: a\nAction: f\nObservation:", "no Action Input"),
        ("qwen", "Thought: a\nAction: f\nAction Input: {\nObservation:", "not JSON"),
        ("qwen", "Thought: a\nAction: \nAction Input: {}\nObservation:", "no name"),
    ],
)
def test_what_is_no_whole_call(name, text, reason):
    with pytest.raises(DataError, match=reason):
        parse_tool_calls(text, find_template(name))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=100)
@given(
    text=st.lists(
        st.sampled_from([*SYNTAX, *WORDS, "f\n", "tool_call(", ")", '{"name": ', "```python\n"])
    ).map("".join)
)
def test_whatever_a_model_writes_is_read_or_refused(name, text):
    with suppress(DataError):
        parse_tool_calls(text, find_template(name))


def test_every_parser_has_a_format():
    assert {find_template(name).tool_calls for name in NAMES} == set(PARSERS)
