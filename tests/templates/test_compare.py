"""What differs between a checkpoint's own template and ours."""

from xtune.templates.compare import differences
from xtune.templates.template import find_template, template_from_source

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def test_the_same_text_is_no_difference():
    assert differences(template_from_source("own", CHATML), find_template("chatml")) == []


def test_variables_are_filled_in_and_what_the_own_template_refuses_is_no_difference():
    own = template_from_source("own", GEMMA, {"bos_token": "<bos>"})
    assert differences(own, find_template("gemma")) == []


def test_another_default_system_message_shows():
    found = differences(template_from_source("own", CHATML), find_template("smollm2"))
    assert [difference.dialogue for difference in found] == [
        "a question",
        "one turn",
        "two turns, Chinese, white space around",
    ]
    assert found[0].own_text == "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    assert str(found[0]).splitlines() == [
        "a question",
        r"  its own: <|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
        r"  ours:    <|im_start|>system\nYou are a helpful AI assistant named Smol…",
    ]


def test_a_refusal_is_shown_with_its_reason():
    found = differences(template_from_source("own", CHATML), find_template("gemma"))
    assert "the format has no system message" in found[1].our_text


def test_a_template_that_works_for_nothing_differs_everywhere():
    found = differences(template_from_source("own", "{{ messages.0.missing.name }}"), find_template("chatml"))
    assert len(found) == 6
    assert "cannot render" in found[0].own_text
