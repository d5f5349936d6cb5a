"""What many tests use: the command line as a process, the real small model, a tiny one, and adapters on them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# One home for all tests and machines' sessions: the embedded model is converted once.
os.environ.setdefault("XTUNE_HOME", str(Path.home() / ".cache" / "xtune-tests"))
# Threads that wait by spinning slow each other down tenfold where other processes want the cores too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, each with what it starts on one
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples" / "quickstart"


@pytest.fixture(scope="session")
def xtune():
    """xtune("train", "r.py", cwd=folder) runs the command line; the result has returncode, stdout, stderr."""

    def run(*args, **options) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "xtune", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)

    return run


@pytest.fixture(scope="session")
def base_directory() -> Path:
    """SmolLM2-135M-Instruct as a Transformers directory."""
    from xtune.families.embedded import model_directory

    return model_directory("smollm2")


@pytest.fixture(scope="session")
def tokenizer(base_directory):
    """SmolLM2's tokenizer."""
    from xtune.families.tokenizer import load_tokenizer

    return load_tokenizer("smollm2")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, tokenizer) -> Path:
    """A LLaMA of two narrow layers with random weights and SmolLM2's tokenizer: what is quick to train."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def make_adapter():
    """make_adapter(base, directory) saves a LoRA adapter with random weights, as a run leaves it."""

    def make(base, directory: Path, *, scale: float = 0.02, bits: int | None = None, **method) -> Path:
        import torch

        from xtune.model.adapters import attach_adapter
        from xtune.model.load import load_model
        from xtune.recipe.schema import Lora
        from xtune.run.target import write_note
        from xtune.templates.template import find_template

        model = attach_adapter(load_model(base, bits=bits), Lora(kind="lora", rank=8, alpha=16, **method))
        random = torch.Generator().manual_seed(0)
        for name, weight in model.named_parameters():
            if "lora_" in name:  # untrained, one of the two factors is zero
                weight.data.normal_(0, scale, generator=random)
        model.save_pretrained(directory)
        write_note(directory, base=str(base), template=find_template("smollm2"))
        return directory

    return make


@pytest.fixture(scope="session")
def adapter(make_adapter, tmp_path_factory) -> Path:
    """An adapter on SmolLM2."""
    return make_adapter("smollm2", tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def tiny_recipe(tiny_model):
    """tiny_recipe(steps=8, ...) is a recipe for the tiny model; options are those of `train`."""

    def recipe(method="full", held_out=8, **options):
        from xtune.recipe.schema import Recipe

        return Recipe.model_validate(
            {
                "model": {"path": str(tiny_model), "dtype": "float32", "template": "smollm2"},
                "method": {"kind": method},
                "data": {"sources": [{"path": str(QUICKSTART / "identity.jsonl")}], "held_out": held_out},
                "train": {"steps": 8, "lr": 1e-3, **options},
                "probe": {"prompts": ["Who are you?"], "max_new_tokens": 8},
            }
        )

    return recipe
