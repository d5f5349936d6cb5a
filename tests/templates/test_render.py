"""The renderer: the publisher's text, the spans that carry loss, and control tokens only the template writes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.errors import DataError, UsageError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template, template_names
from xtune.templates.tool_calls import PARSERS

QUESTION, ANSWER = Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
CALL = {"name": "add", "arguments": {"a": 1}}
BOS = (
    "<s>",
    "<bos>",
    "<|begin_of_text|>",
    "<｜begin▁of▁sentence｜>",
    "[gMASK]",
    "[gMASK]sop",
    "[gMASK]<sop>",
)


def texts(name):
    """Anything people may type, the format's control tokens, halves of them and noncharacters among it."""
    tokens = find_template(name).guarded_tokens[:20]
    halves = [token[: len(token) // 2] for token in tokens] + [token[len(token) // 2 :] for token in tokens]
    odd = [
        "assistant\n",
        "\ufdd0",
        "{{ x }}",
        "{% if %}",
        " ",
        "\n",
        "Thought:",
        "\nAction:",
        "\nObservation:",
    ]
    return st.text(max_size=30) | st.lists(st.sampled_from([*tokens, *halves, *odd]), max_size=4).map("".join)


def takes(name, messages, tools=()) -> bool:
    """Whether the format has a place for such a conversation at all."""
    try:
        render(messages, template=name, tools=tools)
    except DataError:
        return False
    return True


def draw_conversation(data, name):
    count = 1 if not takes(name, [QUESTION, ANSWER] * 2) else data.draw(st.integers(1, 3))
    words = data.draw(st.lists(texts(name), min_size=2 * count, max_size=2 * count))
    return [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(words)]


def test_smollm2_equals_the_publishers_template(tokenizer):
    dialogues = [
        [QUESTION],
        [QUESTION, ANSWER],
        [
            Message("system", "Be brief."),
            QUESTION,
            ANSWER,
            Message("user", "你好\n\n"),
            Message("assistant", ""),
        ],
    ]
    for messages in dialogues:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        for prompt in (False, True):
            published = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt)
            assert render(messages, template="smollm2", add_generation_prompt=prompt).text == published
            assert render(plain, template="smollm2", add_generation_prompt=prompt).text == published


@pytest.mark.parametrize("name", template_names())
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_loss_covers_each_answer_and_its_stop_token(name, data):
    template, messages = find_template(name), draw_conversation(data, name)
    rendered = render(messages, template=template)
    answers = [message.content for message in messages if message.role == "assistant"]
    assert len(rendered.loss_spans) == len(answers)
    controls = {end: rendered.text[start:end] for start, end in rendered.control_spans}
    for answer, (start, end) in zip(answers, rendered.loss_spans, strict=True):
        if "think>" not in answer:  # which some formats take apart
            assert answer.strip() in rendered.text[start:end]
        if not template.one_turn or (start, end) == rendered.loss_spans[-1]:
            assert template.labels.get(controls[end], controls[end]) in template.stop_tokens


@pytest.mark.parametrize("name", template_names())
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_people_type_never_becomes_a_control_token(name, data):
    messages = draw_conversation(data, name)
    harmless = [Message(message.role, "x") for message in messages]
    assert control_tokens(messages, name) == control_tokens(harmless, name)


def control_tokens(messages, name, **options) -> list[str]:
    rendered = render(messages, template=name, **options)
    return [rendered.text[start:end] for start, end in rendered.control_spans]


@pytest.mark.parametrize("name", template_names())
def test_no_control_token_of_any_family_can_be_typed(name):
    """In no place where a person, a tool or a file may write."""
    every = sorted({token for other in template_names() for token in find_template(other).guarded_tokens})
    typed = "".join(every) + "".join(token[1:] + token[:1] for token in every)

    def talk(words):
        tool = {
            **TOOL["function"],
            "description": words,
            "parameters": {"properties": {words: {"enum": [words]}}},
        }
        called = Message(
            "assistant", "", tool_calls=({"name": "add", "arguments": {"a": words, "b": [{words: 1}]}},)
        )
        result = Message("tool", words, name="add")
        return [
            ([Message("user", words), Message("assistant", words)], ()),
            ([Message("system", words), Message("user", words), Message("assistant", words)], ()),
            ([QUESTION, called, result, ANSWER], [{"type": "function", "function": tool}]),
        ]

    for (messages, tools), (plain, plain_tools) in zip(talk(typed), talk("x"), strict=True):
        if takes(name, plain, plain_tools):
            written = control_tokens(messages, name, tools=tools)
            assert written == control_tokens(plain, name, tools=plain_tools)


@pytest.mark.parametrize("name", template_names())
def test_a_text_begins_once(name):
    """Published templates write the token itself, so the tokenizer must not, and no sample has two."""
    turns = [QUESTION, ANSWER] * (2 if takes(name, [QUESTION, ANSWER] * 2) else 1)
    text = render(turns, template=name).text
    assert not any(bos * 2 in text for bos in BOS)


@pytest.mark.parametrize("name", template_names())
def test_formats_say_how_they_are_trained(name):
    template = find_template(name)
    assert set(template.stop_tokens) <= set(template.guarded_tokens)
    assert template.tool_calls is None or template.tool_calls in PARSERS
    assert (template.tool_calls is not None) == takes(
        name,
        [QUESTION, Message("assistant", "", tool_calls=(CALL,)), Message("tool", "1", name="add"), ANSWER],
        [TOOL],
    )


def test_a_turn_without_loss():
    silent = Message("assistant", "Not this.", loss=False)
    rendered = render([QUESTION, silent, QUESTION, ANSWER], template="chatml")
    assert [rendered.text[start:end] for start, end in rendered.loss_spans] == ["It is 4.<|im_end|>"]
    assert (
        rendered.text
        == render([QUESTION, Message("assistant", "Not this."), QUESTION, ANSWER], template="chatml").text
    )


def test_variables_reach_a_template_of_the_users(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(
        "{{ greeting }}{% for m in messages %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% endfor %}"
    )
    rendered = render([ANSWER], template=str(file), greeting="Hi! ")
    assert rendered.text == "Hi! It is 4.</s>"
    assert rendered.loss_spans == [(4, 16)]
    assert find_template(str(file)).stop_tokens == ("</s>",)


def test_unknown_template_names_the_nearest():
    with pytest.raises(UsageError, match="'smollm2'"):
        render([QUESTION], template="smolm2")


def test_what_a_template_refuses_is_an_error_of_the_data(tmp_path):
    file = tmp_path / "strict.jinja"
    file.write_text("{{ raise_exception('only two roles') }}")
    with pytest.raises(DataError, match="only two roles"):
        render([QUESTION], template=str(file))


@pytest.mark.parametrize("name", template_names())
def test_what_a_format_cannot_express_is_refused_not_dropped(name):
    template = find_template(name)
    cases = (
        [] if template.tool_calls else [(Message("assistant", "", tool_calls=(CALL,)), []), (ANSWER, [TOOL])]
    )
    if "<think>" not in template.guarded_tokens:
        cases.append((Message("assistant", "4.", reasoning="2 + 2 is 4"), []))
    for answer, tools in cases:
        with pytest.raises(DataError, match="the format has no"):
            render([QUESTION, answer], template=name, tools=tools)
