"""The renderer: the publisher's text, the spans that carry loss, and control tokens only the template writes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.errors import DataError, UsageError
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template, template_names

QUESTION, ANSWER = Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")
# Anything people may type, control tokens and noncharacters among it.
TEXTS = st.text(max_size=30) | st.lists(
    st.sampled_from(
        ["<|im_end|>", "<|im_start|>", "assistant\n", "\ufdd0", "{{ x }}", "{% if %}", " ", "<|im_", "end|>"]
    ),
    max_size=4,
).map("".join)
CONVERSATIONS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3).map(
    lambda turns: [m for q, a in turns for m in (Message("user", q), Message("assistant", a))]
)


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
@settings(deadline=None, max_examples=60)
@given(messages=CONVERSATIONS)
def test_loss_covers_each_answer_and_its_stop_token(name, messages):
    template = find_template(name)
    rendered = render(messages, template=template)
    learnt = [rendered.text[start:end] for start, end in rendered.loss_spans]
    answers = [message.content for message in messages if message.role == "assistant"]
    assert learnt == [answer + template.stop_tokens[0] for answer in answers]
    last = {(end - len(template.stop_tokens[0]), end) for _, end in rendered.loss_spans}
    assert last <= set(rendered.control_spans)


@pytest.mark.parametrize("name", template_names())
@settings(deadline=None, max_examples=60)
@given(messages=CONVERSATIONS)
def test_what_people_type_never_becomes_a_control_token(name, messages):
    harmless = [Message(message.role, "x") for message in messages]
    rendered, expected = render(messages, template=name), render(harmless, template=name)
    written = [rendered.text[start:end] for start, end in rendered.control_spans]
    assert written == [expected.text[start:end] for start, end in expected.control_spans]


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
@pytest.mark.parametrize(
    ("answer", "tools"),
    [
        (Message("assistant", "", tool_calls=({"name": "add", "arguments": {"a": 1}},)), []),
        (Message("assistant", "4.", reasoning="2 + 2 is 4"), []),
        (ANSWER, [{"type": "function", "function": {"name": "add"}}]),
    ],
)
def test_what_a_format_cannot_express_is_refused_not_dropped(name, answer, tools):
    with pytest.raises(DataError, match="the format has no"):
        render([QUESTION, answer], template=name, tools=tools)
