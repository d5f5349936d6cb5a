"""Which chat template a checkpoint gets, and that a difference from its own is shown."""

from __future__ import annotations

import json

import pytest

from xtune.errors import UsageError
from xtune.families.choose_template import choose_template
from xtune.templates.template import find_template

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LEARNT = CHATML.replace(
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
    "{{ '<|im_start|>' + message['role'] + '\n' }}{% generation %}{{ message['content'] }}<|im_end|>"
    "{% endgeneration %}{{ '\n' }}",
)


CHATGLM = {"model_type": "chatglm", "padded_vocab_size": 65024}


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(config, template) is a model directory with these, and nothing more."""

    def make(config: dict, template: str | None = None, **settings):
        (tmp_path / "config.json").write_text(json.dumps(config))
        settings |= {} if template is None else {"chat_template": template}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return tmp_path

    return make


def test_an_unknown_model_gets_the_template_that_writes_what_its_own_writes(checkpoint):
    choice = choose_template("auto", checkpoint({"model_type": "mistral"}, CHATML))
    assert choice.template.name in ("chatml", "yi")  # alike, byte for byte
    assert not choice.differences


def test_a_template_that_says_what_is_learnt_is_used_as_it_is(checkpoint):
    choice = choose_template("auto", checkpoint({"model_type": "qwen2"}, LEARNT))
    assert choice.template.source == LEARNT
    assert choice.template.stop_tokens == ("<|im_end|>",)


def test_a_difference_from_the_checkpoints_own_is_shown(checkpoint):
    own = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    choice = choose_template("auto", checkpoint({"model_type": "internlm2", "auto_map": {}}, own))
    assert choice.template.name == "internlm2"
    assert "something else" in str(choice)
    assert "[user]" in str(choice)
    named = choose_template("chatml", checkpoint({"model_type": "internlm2"}, own))
    assert named.differences


def test_a_model_of_which_nothing_is_known_needs_a_name(checkpoint):
    with pytest.raises(UsageError, match=r"model\.template"):
        choose_template("auto", checkpoint({"model_type": "mistral"}))


@pytest.mark.parametrize(
    ("config", "files", "name"),
    [
        ({"model_type": "llama", "vocab_size": 32000}, {}, "llama2"),
        ({"model_type": "llama", "vocab_size": 128256}, {}, "llama3"),
        (
            {"model_type": "llama", "vocab_size": 128256, "rope_scaling": {"rope_type": "llama3"}},
            {},
            "llama3_1",
        ),
        ({"model_type": "llama", "vocab_size": 49152}, {}, "smollm2"),
        ({"model_type": "qwen2"}, {}, "qwen2"),
        ({"model_type": "qwen2"}, {"tokenizer_config.json": '{"x": "<tool_call>"}'}, "qwen2_5"),
        ({"model_type": "qwen3"}, {}, "qwen3"),
        ({"model_type": "internlm"}, {}, "internlm"),
        ({"model_type": "internlm"}, {"modeling_internlm.py": "'<eoh>'"}, "internlm_v1_0"),
        ({"model_type": "internlm3"}, {}, "internlm2"),  # which is the same format
        ({"model_type": "baichuan", "vocab_size": 125696}, {}, "baichuan2"),
        ({"model_type": "baichuan", "vocab_size": 64000}, {}, "baichuan"),
        ({"model_type": "chatglm", "inner_hidden_size": 1}, {}, "chatglm"),
        ({"model_type": "chatglm", "padded_vocab_size": 151552}, {}, "glm4"),
        (
            CHATGLM,
            {"tokenization_chatglm.py": "<|observation|>"},
            "chatglm3",
        ),
        (
            CHATGLM,
            {"tokenization_chatglm.py": "Round"},
            "chatglm2",
        ),
    ],
)
def test_template_of_each_generation(checkpoint, config, files, name):
    directory = checkpoint(config)
    for file, content in files.items():
        (directory / file).write_text(content)
    assert choose_template("auto", directory).template.name == name


def test_variables_are_set_and_unknown_ones_refused(checkpoint):
    directory = checkpoint({"model_type": "qwen3"})
    choice = choose_template("auto", directory, variables={"enable_thinking": False})
    assert choice.template.variables["enable_thinking"] is False
    assert find_template("qwen3").variables["enable_thinking"] is not False
    with pytest.raises(UsageError, match="enable_thinking"):
        choose_template("auto", directory, variables={"enable_thought": False})
