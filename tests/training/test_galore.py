"""GaLore, where its package is installed."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training.test_methods import recipe
from xtune.errors import RecipeError
from xtune.training.train import prepare, resume, train


def test_it_learns_and_resumes_to_the_same_weights(tiny_model, tmp_path):
    asked = recipe(tiny_model, {"kind": "full"}, optimizer="galore", lr=1e-2, steps=6, checkpoint_every=3)
    run = train(asked, run_dir=tmp_path / "run")
    first, *_, last = run.metrics()
    assert last["loss"] < first["loss"] - 0.1
    whole = load_file(run.result / "model.safetensors")
    shutil.rmtree(run.result)
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    resumed = load_file(resume(run.path).result / "model.safetensors")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_adapters_are_refused(tiny_model):
    with pytest.raises(RecipeError, match="those of adapters have already"):
        prepare(recipe(tiny_model, optimizer="galore"))
