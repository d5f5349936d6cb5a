"""Formats with tool calls, and their plain siblings: the text that the publishers' templates and prompt code write.

published/<name>.json holds dialogues and what came out when that code was run on them.
"""

import json
from pathlib import Path

import pytest

from xtune.data.encoding.encode import encode, plain_tokenizer
from xtune.errors import DataError
from xtune.families.tokenizer import load_tokenizer
from xtune.families.tokenizers_original import glm4_tokenizer
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template

NAMES = [
    *("chatglm3", "glm4", "internlm2", "llama3", "llama3_1", "llama3_2"),
    *("qwen", "qwen2", "qwen2_5", "qwen3"),
]
PUBLISHED = Path(__file__).parent / "published"
FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = [
    pytest.param(name, case, id=f"{name}-{number}")
    for name in NAMES
    for number, case in enumerate(json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8")))
]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather.", "parameters": {"type": "object"}},
}
BEIJING, PARIS = ({"name": "weather", "arguments": {"city": city}} for city in ("北京", "Paris"))
RESULT, ANSWER = Message("tool", "sunny", name="weather"), Message("assistant", "It is sunny.")
QUESTION = Message("user", "Weather?")
CALL = Message("assistant", "", tool_calls=(BEIJING,))
CODE = Message(
    "assistant", "I compute.", tool_calls=({"name": "interpreter", "arguments": {"code": "2 + 2"}},)
)


def as_message(given) -> Message:
    calls = tuple(call["function"] for call in given.get("tool_calls", ()))
    reasoning, name = given.get("reasoning_content"), given.get("name")
    return Message(given["role"], given["content"], reasoning, calls, name)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_text(name, case):
    keys = ("tools", "add_generation_prompt")
    options = {"template": name, **{key: case[key] for key in keys}, **case["variables"]}
    messages = [as_message(message) for message in case["messages"]]
    assert render(case["messages"], **options).text == case["text"]
    assert render(messages, **options).text == case["text"]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_each_answer_begins_where_its_prompt_ends(name, case):
    options = {"template": name, "tools": case["tools"], **case["variables"]}
    messages, whole = case["messages"], render(case["messages"], **options)
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    for index, (start, end) in zip(answers, whole.loss_spans, strict=True):
        if index == len(messages) - 1:
            assert whole.text[end:] in ("", "\n")
        elif name == "qwen3":  # shows less of earlier answers than it asked for
            continue
        prompt = render(messages[:index], add_generation_prompt=True, **options)
        assert prompt.text == whole.text[:start]


@pytest.mark.parametrize(
    ("name", "learnt"),
    [
        (
            "internlm2",
            [
                'Let me look.<|action_start|><|plugin|>\n{"name": "weather", "parameters": {"city": "北京"}}'
                "<|action_end|><|im_end|>",
                "It is sunny.<|im_end|>",
            ],
        ),
        (
            "qwen",
            [
                'Thought: Let me look.\nAction: weather\nAction Input: {"city": "北京"}\nObservation:',
                " I now know the final answer.\nFinal Answer: It is sunny.<|im_end|>",
            ],
        ),
        (
            "qwen2_5",
            [
                'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>',
                "It is sunny.<|im_end|>",
            ],
        ),
        (
            "qwen3",
            [
                'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>',
                "<think>\n\n</think>\n\nIt is sunny.<|im_end|>",
            ],
        ),
        (
            "chatglm3",
            [
                "\nLet me look.<|assistant|>weather\n```python\ntool_call(city='北京')\n```<|observation|>",
                "\nIt is sunny.</s>",
            ],
        ),
        (
            "glm4",
            [
                '\nLet me look.<|assistant|>weather\n{"city": "北京"}<|observation|>',
                "\nIt is sunny.<|user|>",
            ],
        ),
        (
            "llama3_1",
            [
                '{"name": "weather", "parameters": {"city": "北京"}}<|eot_id|>',
                "It is sunny.<|eot_id|>",
            ],
        ),
    ],
)
def test_what_is_learnt_of_a_call(name, learnt):
    call = Message("assistant", "" if name == "llama3_1" else "Let me look.", tool_calls=(BEIJING,))
    rendered = render([QUESTION, call, RESULT, ANSWER], template=name, tools=[TOOL])
    assert [rendered.text[start:end] for start, end in rendered.loss_spans] == learnt


def test_chatglms_next_role_token_ends_the_answer():
    for name, final in (("chatglm3", "</s>"), ("glm4", "<|user|>")):
        rendered = render([QUESTION, ANSWER, QUESTION, ANSWER], template=name)
        learnt = [rendered.text[start:end] for start, end in rendered.loss_spans]
        assert learnt == ["\nIt is sunny.<|user|>", f"\nIt is sunny.{final}"]


def test_the_code_interpreter():
    result, tool = (
        Message("tool", "4", name="interpreter"),
        {"name": "interpreter", "description": "Runs Python."},
    )
    messages = [QUESTION, CODE, result, ANSWER]
    text = render(messages, template="internlm2", tools=[{"type": "function", "function": tool}]).text
    assert text.startswith(
        "<s><|im_start|>system name=<|interpreter|>\nRuns Python.<|im_end|>\n<|im_start|>user\n"
    )
    assert (
        "I compute.<|action_start|><|interpreter|>\n```python\n2 + 2\n```<|action_end|><|im_end|>\n" in text
    )
    assert "<|im_start|>environment name=<|interpreter|>\n4<|im_end|>\n" in text
    text = render(messages, template="chatglm3").text
    assert (
        "\nI compute.<|assistant|>interpreter\n```python\n2 + 2\n```<|observation|>\n4<|assistant|>" in text
    )


def test_without_thinking_the_empty_block_is_part_of_the_prompt():
    rendered = render([QUESTION, ANSWER], template="qwen3", enable_thinking=False)
    assert [rendered.text[start:end] for start, end in rendered.loss_spans] == ["It is sunny.<|im_end|>"]
    assert rendered.text.endswith("assistant\n<think>\n\n</think>\n\nIt is sunny.<|im_end|>\n")


def test_thinking_inside_an_answer_is_taken_apart_only_where_nothing_is_lost():
    inside = Message("assistant", "<think>\na\n</think>\n\nb")
    apart = Message("assistant", "b", reasoning="a")
    assert render([QUESTION, inside], template="qwen3") == render([QUESTION, apart], template="qwen3")
    for text in ("x <think>a</think>b", "<think>a</think>b</think>", "<think>a", "a <think>"):
        rendered = render([QUESTION, Message("assistant", text), QUESTION, ANSWER], template="qwen3")
        assert f"assistant\n{text}<|im_end|>" in rendered.text
    # what a user writes is words, and where a format has no such tokens an answer's are too
    assert "<think>\na\n</think>\n\nb<|im_end|>" in render([QUESTION, inside], template="qwen2_5").text


def test_openais_own_messages():
    """Arguments as JSON text, null for what is not there."""
    function = {"name": "weather", "arguments": '{"city": "北京"}'}
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    question = {"role": "user", "content": "Weather?", "tool_calls": None}
    assert render([question, call], template="qwen2_5") == render([QUESTION, CALL], template="qwen2_5")
    function["arguments"] = '{"city": '
    with pytest.raises(DataError, match="arguments of a call of weather are no JSON"):
        render([question, call], template="qwen2_5")


BOTH = Message("assistant", "", tool_calls=(BEIJING, PARIS))
SPOKEN = Message("assistant", "Let me look.", tool_calls=(BEIJING,))
HYPHEN = Message("assistant", "", tool_calls=({"name": "weather", "arguments": {"a-b": 1}},))


@pytest.mark.parametrize(
    ("name", "messages", "tools", "reason"),
    [
        *((name, [QUESTION, BOTH], [TOOL], "parallel") for name in ("qwen", "llama3_1", "chatglm3", "glm4")),
        ("llama3_1", [QUESTION, SPOKEN], [TOOL], "no words beside a call"),
        (
            "llama3_1",
            [Message("system", "a"), Message("system", "b"), QUESTION],
            [TOOL],
            "the first question",
        ),
        ("qwen", [QUESTION, CALL], [], "without tools"),
        ("qwen", [QUESTION, CALL, QUESTION], [TOOL], "without their results"),
        ("qwen", [QUESTION, RESULT, ANSWER], [TOOL], "without their results"),
        ("chatglm3", [QUESTION, HYPHEN], [TOOL], "'a-b'"),
    ],
)
def test_what_a_format_cannot_express_is_refused(name, messages, tools, reason):
    with pytest.raises(DataError, match=reason):
        render(messages, template=name, tools=tools)


def test_chatglm3_ids():
    """Each role line and each content is encoded alone."""
    directory = FIXTURES / "parity" / "chatglm3"
    tokenizer = load_tokenizer(directory / "checkpoint")
    chat = json.loads((directory / "tokenizer_expected.json").read_text(encoding="utf-8"))["chat"]
    messages = [*chat["history"], {"role": "user", "content": chat["query"]}]
    encoded = encode(messages, tokenizer=tokenizer, template="chatglm3", add_generation_prompt=True)
    assert encoded.input_ids.tolist() == chat["ids"]

    vocabulary, alone = tokenizer.get_vocab(), plain_tokenizer(tokenizer)
    for case in json.loads((PUBLISHED / "chatglm3.json").read_text(encoding="utf-8")):
        pieces = case["pieces"]  # as the publisher's code encoded them, tool calls among them
        ids = [
            [vocabulary[piece]]
            if piece in ("[gMASK]", "sop", "</s>") or piece[:2] == "<|"
            else alone.encode(piece).ids
            for piece in pieces
        ]
        encoded = encode(
            case["messages"],
            tokenizer=tokenizer,
            template="chatglm3",
            tools=case["tools"],
            add_generation_prompt=case["add_generation_prompt"],
        )
        assert encoded.input_ids.tolist() == sum(ids, [])


def test_internlm2_ids():
    directory = FIXTURES / "parity" / "internlm2"
    chat = json.loads((directory / "tokenizer_expected.json").read_text(encoding="utf-8"))["chat"]
    tokenizer = load_tokenizer(directory / "checkpoint")
    encoded = encode(chat["messages"], tokenizer=tokenizer, template="internlm2", add_generation_prompt=True)
    assert encoded.input_ids.tolist() == chat["ids"]


def test_qwen_ids():
    directory = FIXTURES / "parity" / "qwen_v1"
    chat = json.loads((directory / "tokenizer_expected.json").read_text(encoding="utf-8"))["chat"]
    said = [text for turn in chat["history"] for text in turn] + [chat["query"]]
    messages = [Message(("user", "assistant")[index % 2], text) for index, text in enumerate(said)]
    tokenizer = load_tokenizer(directory / "checkpoint")
    encoded = encode(messages, tokenizer=tokenizer, template="qwen", add_generation_prompt=True)
    assert encoded.input_ids.tolist() == chat["ids"]


def test_glm4_ids():
    """The publisher's tiktoken file encodes the text between its tokens."""
    tokenizer = glm4_tokenizer(FIXTURES / "tokenizers" / "glm4")
    encoded = encode([QUESTION, ANSWER, QUESTION, ANSWER], tokenizer=tokenizer, template="glm4")
    alone, of = plain_tokenizer(tokenizer), tokenizer.convert_tokens_to_ids
    question, answer = (alone.encode(f"\n{message.content}").ids for message in (QUESTION, ANSWER))
    turn = [of("<|user|>"), *question, of("<|assistant|>"), *answer]
    assert encoded.input_ids.tolist() == [of("[gMASK]"), of("<sop>"), *turn, *turn, of("<|user|>")]
    learnt = [
        *[False] * (len(question) + 1),
        *[True] * (len(answer) + 1),
    ]  # from behind one <|user|> to the next
    assert encoded.loss_mask.tolist() == [False] * 3 + learnt * 2


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("chatglm3", "parity/chatglm3/checkpoint"),
        ("internlm2", "parity/internlm2/checkpoint"),
        ("qwen", "parity/qwen_v1/checkpoint"),
        ("glm4", "tokenizers/glm4"),
    ],
)
def test_typed_control_tokens_get_the_ids_of_words(name, directory):
    tokenizer = (glm4_tokenizer if name == "glm4" else load_tokenizer)(FIXTURES / directory)
    known = set(tokenizer.get_vocab()).intersection(find_template(name).guarded_tokens)
    control_ids = set(tokenizer.convert_tokens_to_ids(sorted(known)))
    assert len(known) > 4

    def written(words):
        call = Message("assistant", "", tool_calls=({"name": "weather", "arguments": {"city": words}},))
        messages = [Message("user", words), call, Message("tool", words, name="weather"), ANSWER]
        ids = encode(messages, tokenizer=tokenizer, template=name, tools=[TOOL]).input_ids.tolist()
        return [token for token in ids if token in control_ids]

    assert written("".join(known)) == written("x")
