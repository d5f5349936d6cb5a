"""The text of an answer while it is written: never taken back, never half of anything."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.serve.answer import Answer
from xtune.templates.template import find_template, template_names
from xtune.templates.tool_calls import PARSERS, parse_tool_calls

FORMATS = {
    find_template(name).tool_calls: name for name in template_names() if find_template(name).tool_calls
}


class Letters:
    """A tokenizer whose tokens are the pieces of text that a test hands over."""

    def __init__(self, pieces):
        self.pieces = pieces

    @property
    def backend_tokenizer(self):
        return self


@pytest.fixture(autouse=True)
def _pieces_as_tokens(monkeypatch):
    class Stream:
        def __init__(self, skip_special_tokens):
            pass

        def step(self, tokenizer, token):
            return tokenizer.pieces[token]

    monkeypatch.setattr("xtune.serve.answer.DecodeStream", Stream)


def written(pieces, template, stop=(), with_tools=True):
    """What is certain after each piece, up to the end or a stop string, and the whole."""
    answer = Answer(Letters(pieces), find_template(template), stop, with_tools)
    states = []
    for token in range(len(pieces)):
        if answer.take(token):
            break
        states.append(answer.so_far())
    return states, answer.whole()


WORDS = [
    *(
        "a",
        "b",
        " ",
        "\n",
        "{",
        "}",
        "<",
        "<think>",
        "</think>",
        "\n\n",
        '"name"',
        ":",
        "Thought:",
        "\nAction:",
    ),
    *(
        "<|action_start|>",
        "<|plugin|>",
        "<|action_end|>",
        "<tool_call>",
        "</tool_call>",
        "<|assistant|>",
        "tool_",
    ),
    *(
        '{"name": "f", "arguments": {}}',
        '{"name": "f", "parameters": {}}',
        "\nf\n",
        "{}",
        "\nFinal Answer: x",
        "call>",
    ),
    *(
        "\nAction: f\nAction Input: {}",
        "<|python_tag|>",
        "<tool_",
        "</think",
        ">",
        "```python\ntool_call()\n```",
    ),
]


@settings(max_examples=250, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(WORDS), max_size=9),
    template=st.sampled_from(template_names()),
    stop=st.lists(st.sampled_from(["ab", "b\n", "a a", "}", "<t", "x"]), max_size=2),
    with_tools=st.booleans(),
)
def test_nothing_that_was_sent_is_taken_back(pieces, template, stop, with_tools):
    states, whole = written(pieces, template, stop, with_tools)
    for before, after in pairwise([*states, whole]):
        assert after.content.startswith(before.content)
        assert (after.reasoning or "").startswith(before.reasoning or "")
    for end in stop:
        assert end not in whole.content or whole.calls or "<think>" in pieces


@given(text=st.text("ab<>", max_size=30), stop=st.lists(st.text("ab<", min_size=1, max_size=3), min_size=1))
def test_an_answer_ends_before_the_first_stop_string(text, stop):
    _, whole = written(list(text), "llama3", stop, with_tools=False)
    places = [text.find(end) for end in stop if end in text]
    # one that began earlier may end later, and is found later
    ends = min((text.find(end) + len(end) for end in stop if end in text), default=None)
    if ends is None:
        assert whole.content == text
    else:
        assert min(places) <= len(whole.content) < ends
        assert not any(end in whole.content for end in stop)
        assert text.startswith(whole.content)


CALLS = {
    "internlm2": 'Look.<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}<|action_end|>',
    "hermes": 'Look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    "chatglm3": "\nLook.<|assistant|>f\n```python\ntool_call(a=1)\n```",
    "glm4": '\nLook.<|assistant|>f\n{"a": 1}',
    "llama3_1": '{"name": "f", "parameters": {"a": 1}}',
    "react": 'Thought: Look.\nAction: f\nAction Input: {"a": 1}\nObservation: made up',
}


@pytest.mark.parametrize("form", PARSERS)
def test_words_come_as_they_are_written_and_a_call_at_the_end(form):
    states, whole = written(list(CALLS[form]), FORMATS[form])
    assert whole.calls == ({"name": "f", "arguments": {"a": 1}},)
    assert whole.content == ("" if form == "llama3_1" else "Look.")
    assert not any("{" in state.content or "<" in state.content for state in states)
    if form not in ("llama3_1", "react"):
        assert any(state.content == "Look." for state in states)
    assert set(CALLS) == set(PARSERS)


@pytest.mark.parametrize("form", PARSERS)
def test_what_only_looks_like_a_call_is_text(form):
    broken = CALLS[form].replace("1", "")
    with pytest.raises(Exception, match="cannot be read"):
        parse_tool_calls(broken.partition("\nObservation")[0], find_template(FORMATS[form]))
    _, whole = written(list(broken), FORMATS[form])
    assert not whole.calls
    assert "Look." in whole.content or form == "llama3_1"


def test_thinking_is_told_apart():
    states, whole = written(
        ["<think", ">", "\nHm", "m.\n", "</think", ">", "\n\n", "Yes"], "qwen3", with_tools=False
    )
    assert (whole.reasoning, whole.content) == ("Hmm.", "Yes")
    assert [state.content for state in states] == [""] * 7 + ["Yes"]
    assert [state.reasoning for state in states[:5]] == [None, None, "Hm", "Hmm.", "Hmm."]
