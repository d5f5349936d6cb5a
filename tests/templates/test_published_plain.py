"""Formats without tool calls: text and what is learnt, as the publishers' templates and prompt code write it.

published/<name>.json holds what those wrote; which they were, the catalogue of facts says, not these files.
"""

import json
from pathlib import Path

import pytest

from xtune.data.encoding.encode import NO_LABEL, encode
from xtune.errors import DataError
from xtune.families.tokenizer import load_tokenizer
from xtune.families.tokenizers_original import chatglm2_tokenizer, chatglm_6b_tokenizer
from xtune.messages import Message
from xtune.templates.catalog import ALIASES, TEMPLATES
from xtune.templates.render import render
from xtune.templates.template import template_from_source

NAMES = [
    *("alpaca", "baichuan", "baichuan2", "chatglm", "chatglm2", "deepseek_v2", "gemma", "internlm"),
    *("internlm_v1_0", "llama2", "mistral", "phi3", "vicuna", "yi", "zephyr"),
]
PUBLISHED = Path(__file__).parent / "published"
PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
CASES = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name in NAMES
    for number, case in enumerate(json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8")))
]
QUESTION, ANSWER = Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")
SYSTEM = Message("system", "Be brief.")


@pytest.mark.parametrize(("name", "case"), CASES)
def test_text_and_what_is_learnt(name, case):
    rendered = render(case["messages"], template=name, add_generation_prompt=case["add_generation_prompt"])
    assert rendered.text == case["text"]
    assert [rendered.text[start:end] for start, end in rendered.loss_spans] == case["learnt"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_the_prompt_ends_where_the_last_answer_begins(name, case):
    if case["messages"][-1]["role"] != "assistant":
        return
    prompt = render(case["messages"][:-1], template=name, add_generation_prompt=True).text
    whole = render(case["messages"], template=name)
    start, end = whole.loss_spans[-1]
    assert prompt == whole.text[:start]
    assert whole.text[end:] in (
        "",
        "\n",
        "\n<|endoftext|>",
    )  # nothing else is written once the model has stopped


@pytest.mark.parametrize(
    ("name", "messages"),
    [
        *((name, [SYSTEM, QUESTION]) for name in ("gemma", "chatglm", "chatglm2", "internlm_v1_0")),
        *((name, [QUESTION, SYSTEM, ANSWER]) for name in ("llama2", "mistral", "vicuna", "baichuan")),
        *((name, [QUESTION, QUESTION]) for name in ("gemma", "chatglm", "chatglm2", "llama2", "mistral")),
        ("baichuan2", [QUESTION, ANSWER, ANSWER]),
        ("alpaca", [QUESTION, ANSWER, QUESTION]),
        ("alpaca", [SYSTEM, QUESTION, QUESTION]),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(name, messages):
    with pytest.raises(DataError, match=r"the format has no|may only be the first"):
        render(messages, template=name)


def test_a_system_message_takes_the_place_of_alpacas_preamble():
    assert render([SYSTEM, QUESTION, ANSWER], template="alpaca").text == (
        "<s>Be brief.\n\n### Instruction:\nWhat is 2 + 2?\n\n### Response:It is 4.</s>"
    )


def test_aliases_name_formats_that_exist():
    assert set(ALIASES.values()) <= set(TEMPLATES)
    assert not set(ALIASES) & set(TEMPLATES)


@pytest.mark.parametrize("model", ["baichuan_13b", "baichuan2_7b"])
def test_baichuan_ids_and_labels(model):
    expected = json.loads((PARITY / model / "tokenizer_expected.json").read_text(encoding="utf-8"))["chat"]
    tokenizer = load_tokenizer(PARITY / model / "checkpoint")
    template = _baichuan(tokenizer, PARITY / model)
    chat = encode(expected["messages"], tokenizer=tokenizer, template=template, add_generation_prompt=True)
    assert chat.input_ids.tolist() == expected["ids"]

    user, bot = expected["ids"][1], expected["ids"][-1]
    encoded = encode([QUESTION, ANSWER, QUESTION, ANSWER], tokenizer=tokenizer, template=template)
    ids, labels = encoded.input_ids.tolist(), encoded.labels.tolist()
    question, answer = (_alone(tokenizer, message.content) for message in (QUESTION, ANSWER))
    stop = tokenizer.eos_token_id
    assert ids == [user, *question, bot, *answer, user, *question, bot, *answer, stop]
    unlearnt = [NO_LABEL] * (len(question) + 1)
    assert labels == [NO_LABEL, *unlearnt, *answer, stop, *unlearnt, *answer, stop]


def _baichuan(tokenizer, directory):
    """By the name that the tokenizer gives the published user token."""
    settings = json.loads((directory / "checkpoint" / "generation_config.json").read_text())
    return (
        "baichuan2"
        if tokenizer.convert_tokens_to_ids("<reserved_106>") == settings["user_token_id"]
        else "baichuan"
    )


def _alone(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_internlm_ids():
    """The chat text of the publisher's v1.0 code, as the publisher's tokenizer encoded it in one piece."""
    expected = json.loads((PARITY / "internlm" / "tokenizer_expected.json").read_text(encoding="utf-8"))
    chat = next(case for case in expected["encode"] if "<eoh>" in case["text"])
    tokenizer = load_tokenizer(PARITY / "internlm" / "checkpoint")
    messages = [Message("user", "你好"), Message("assistant", "Hi"), Message("user", "2+2?")]
    encoded = encode(messages, tokenizer=tokenizer, template="internlm_v1_0", add_generation_prompt=True)
    assert encoded.input_ids.tolist() == chat["ids"]


@pytest.mark.parametrize(
    ("name", "load", "directory", "prompt", "stop"),
    [
        # ChatGLM3's tokenizer is ChatGLM2's
        (
            "chatglm2",
            chatglm2_tokenizer,
            PARITY / "chatglm3" / "checkpoint",
            "[Round 1]\n\n问：{}\n\n答：",
            "</s>",
        ),
        ("chatglm", chatglm_6b_tokenizer, PARITY.parent / "tokenizers" / "chatglm_6b", "{}", "<eop>"),
    ],
)
def test_chatglm_encodes_the_prompt_and_the_last_answer_each_alone(name, load, directory, prompt, stop):
    """As the publisher's training scripts do: encode(prompt) with the marks, encode(answer) without, stop."""
    tokenizer = load(directory)
    encoded = encode([QUESTION, ANSWER], tokenizer=tokenizer, template=name)
    prompt_ids = tokenizer.encode(prompt.format(QUESTION.content))
    answer_ids = [*_alone(tokenizer, ANSWER.content), tokenizer.convert_tokens_to_ids(stop)]
    assert encoded.input_ids.tolist() == prompt_ids + answer_ids
    assert encoded.labels.tolist() == [NO_LABEL] * len(prompt_ids) + answer_ids


@pytest.mark.parametrize("name", ["chatglm2", "chatglm"])
def test_chatglm_encodes_earlier_rounds_in_one_piece(name):
    silent = Message("assistant", "It is 4.", loss=False)
    tokenizer = (
        chatglm2_tokenizer(PARITY / "chatglm3" / "checkpoint")
        if name == "chatglm2"
        else chatglm_6b_tokenizer(PARITY.parent / "tokenizers" / "chatglm_6b")
    )
    messages = [QUESTION, silent, QUESTION]
    encoded = encode(messages, tokenizer=tokenizer, template=name, add_generation_prompt=True)
    text = render(messages, template=name).text.removeprefix("[gMASK]sop")
    assert encoded.input_ids.tolist() == tokenizer.encode(text)


# Of published templates: source, tokens by variable, what is a stop token, some that are or may be tokens.
OWN = {
    "gemma": ("{{ bos_token }}<start_of_turn>model\n{{ m }}<end_of_turn>", {"bos_token": "<bos>"}),
    "deepseek": ("{{ bos_token }}<｜User｜>{{ m }}<｜Assistant｜>", {"bos_token": "<｜begin▁of▁sentence｜>"}),
    "llama2": ("{{ bos_token + '[INST] ' + m + ' [/INST]' }}", {"bos_token": "<s>", "eos_token": "</s>"}),
    "glm4": ("[gMASK]<sop><|{{ role }}|>\n{{ m }}", {"eos_token": "<|endoftext|>"}),
    "phi3": ("{{ '<|' + message['role'] + '|>' + '<|end|>' }}", {}),
}


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gemma", ["<bos>", "<start_of_turn>", "<end_of_turn>"]),
        ("deepseek", ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]),
        ("llama2", ["<s>", "</s>", "[INST]", "[/INST]"]),
        ("glm4", ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|endoftext|>"]),
        ("phi3", ["<|user|>", "<|end|>"]),
    ],
)
def test_control_tokens_of_templates_from_outside(name, tokens):
    template = template_from_source(name, *OWN[name])
    assert set(tokens) <= set(template.guarded_tokens)
    assert template.stop_tokens == ()  # it does not say what is learnt


def test_a_template_from_outside_that_says_what_is_learnt():
    source = (
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n"
        "{%- generation -%}{{ m.content + eos_token }}{% endgeneration %}{% endfor %}"
    )
    template = template_from_source("own", source, {"bos_token": "<s>", "eos_token": "</s>"})
    assert (template.stop_tokens, template.control_tokens) == (("</s>",), ("</s>",))
    rendered = render([Message("assistant", "Hi <s> </s>")], template=template)
    assert rendered.text == "<s><|assistant|>Hi <s> </s></s>"
    written = [rendered.text[start:end] for start, end in rendered.control_spans]
    assert written == ["<s>", "<|assistant|>", "</s>"]
