"""What cannot be loaded is refused by name; what cannot be had is said at once."""

from __future__ import annotations

import json

import pytest

from xtune.errors import UsageError
from xtune.families import find_family, read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Options


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "qwen", "visual": {}}, "Qwen-VL"),
        ({"model_type": "qwen", "audio": {}}, "Qwen-Audio"),
        ({"model_type": "chatglm", "padded_vocab_size": 151552, "vision_config": {}}, "GLM-4V"),
        ({"model_type": "chatglm", "inner_hidden_size": 1, "quantization_bit": 4}, "4 bits"),
        ({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}, "2 classes"),
        ({"model_type": "internlmxcomposer2", "auto_map": {}}, "internlmxcomposer2"),
    ],
)
def test_other_kinds_of_models(tmp_path, config, message):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=message):
        find_family(tmp_path)


def test_options_of_another_family(published):
    with pytest.raises(UsageError, match=r"model\.norm_head means nothing to the family internlm2"):
        read_layout(published("internlm2"), Options(norm_head=True))


def test_a_config_that_lacks_something(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internlm2", "hidden_size": 64}))
    with pytest.raises(UsageError, match="has no num_attention_heads"):
        read_layout(tmp_path, Options())


def test_a_model_of_the_hub_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://no-such-host.invalid")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://no-such-host.invalid")
    with pytest.raises(UsageError, match=r"There is no directory Nobody/nothing here.*no network"):
        model_directory("Nobody/nothing")


def test_a_family_in_a_file(tmp_path, published):
    (tmp_path / "broken.py").write_text("FAMILY = 1")
    with pytest.raises(UsageError, match="defines no FAMILY"):
        find_family(published("internlm2"), str(tmp_path / "broken.py"))
    with pytest.raises(UsageError, match="cannot be read"):
        find_family(published("internlm2"), str(tmp_path / "missing.py"))
