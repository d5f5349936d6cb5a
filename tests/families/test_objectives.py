"""Every architecture learns preferences, labels, scores and from rewards, from its publisher's layout."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from tests.families.conftest import NAMES, options_of
from xtune.recipe.load import load_recipe
from xtune.training.train import train

QUESTIONS = ["你好", "What is 2 + 2?", "Who are you?", "第一行\n第二行"]
PAIRS = [
    {"prompt": question, "chosen": "It is blue.", "rejected": f"No{' red' * number}!"}
    for number, question in enumerate(QUESTIONS)
]
LABELLED = [
    {"prompt": question, "completion": answer, "label": answer == "It is blue."}
    for question in QUESTIONS
    for answer in ("It is blue.", "No red!")
]
PROMPTS = [{"prompt": question} for question in QUESTIONS]
ROWS = {"kto": LABELLED, "rloo": PROMPTS}
OPTIONS = {"rloo": "dict(kind='rloo', rewards=[dict(function=short)], completions=4, max_new_tokens=6)"}
RECIPE = """
def short(answer, row):
    return -len(answer)


model = dict(path={path!r}, **{options!r})
method = dict(kind="lora", rank=4, alpha=8)
data = dict(sources=[dict(path="data.jsonl")], max_length=256)
train = dict(objective={objective}, steps=3, batch_size={batch}, lr=1e-2, schedule="constant", warmup=0)
"""


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto", "reward", "rloo"])
@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_learns(name, objective, published, tmp_path):
    torch.set_num_threads(1)
    rows = ROWS.get(objective, PAIRS)
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.py").write_text(
        RECIPE.format(
            path=str(published(name)),
            options=options_of(name).chosen(),
            objective=OPTIONS.get(objective, repr(objective)),
            batch=len(rows),
        )
    )
    run = train(load_recipe(tmp_path / "recipe.py"), run_dir=tmp_path / "run")
    first, *_, last = run.metrics()
    if objective == "rloo":
        weights = load_file(run.path / "adapter" / "adapter_model.safetensors")
        assert any(weight.abs().max() > 0 for key, weight in weights.items() if "lora_B" in key)
        assert first["loss"] == pytest.approx(
            0, abs=1e-5
        )  # what answers to one prompt are ahead of the others adds up to 0
    else:
        assert last["loss"] < first["loss"]
    if objective == "dpo":  # the model before training is the model
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
        assert first["rewards/margin"] == pytest.approx(0, abs=1e-4)
