"""Pre-training on documents: every token but the first of each is learnt, long ones are split, none sees another."""

import numpy as np
import pytest

from xtune.data.dataset import load_dataset
from xtune.errors import DataError
from xtune.recipe.schema import Data, Recipe
from xtune.templates.template import find_template
from xtune.training.train import train

TEXTS = ["The cat sat on the mat.", "A dog ran home. " * 40, "你好，世界。"]


@pytest.fixture
def documents(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    return str(file)


def test_documents_are_encoded_whole(documents, tokenizer):
    data = Data(sources=[{"path": documents}], max_length=64)
    dataset = load_dataset(data, tokenizer, find_template("smollm2"), "pretrain")
    assert dataset.lengths.max() <= 64
    assert np.array_equal(dataset.input_ids, dataset.labels)
    end = tokenizer.eos_token
    assert tokenizer.decode(dataset.input_ids) == "".join(text + end for text in TEXTS)
    assert dataset.report["kept"] == 3
    (repair,) = dataset.report["repairs"]
    assert repair == "longer than max_length (64 tokens): split"


def test_conversations_are_not_documents(tmp_path, tokenizer):
    file = tmp_path / "talk.jsonl"
    file.write_text('{"instruction": "q", "output": "a"}\n')
    data = Data(sources=[{"path": str(file)}])
    with pytest.raises(DataError, match="These rows are conversations"):
        load_dataset(data, tokenizer, find_template("smollm2"), "pretrain")


def test_a_model_learns_documents(documents, tiny_model, tmp_path):
    recipe = Recipe.model_validate(
        {
            "model": {"path": str(tiny_model), "dtype": "float32", "template": "smollm2"},
            "method": {"kind": "lora"},
            "data": {"sources": [{"path": documents}], "max_length": 128},
            "train": {"objective": "pretrain", "batch_tokens": 256, "steps": 12, "lr": 1e-2},
        }
    )
    run = train(recipe, run_dir=tmp_path / "run")
    steps = run.metrics()
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert all(step["tokens"] <= 256 for step in steps)
    assert run.read_json("data_report.json")["samples"] > 3
