"""A run trains alike with fused kernels, with some of them, and in plain PyTorch."""

import os
import shutil

import pytest
import torch

from tests.training.test_sft import largest_difference, recipe, weights
from xtune.kernels import native
from xtune.kernels.lora import LoraLinear, lora_linears
from xtune.kernels.rms_norm import rms_norm
from xtune.recipe.schema import Recipe
from xtune.training.train import train


def with_method(options: Recipe, **method) -> Recipe:
    return options.model_copy(update={"method": options.method.model_copy(update=method)})


@pytest.mark.parametrize(
    ("packing", "method"),
    [
        (True, "lora"),
        pytest.param(True, "qlora", marks=pytest.mark.slow),
        (True, "full"),
        pytest.param(False, "lora", marks=pytest.mark.slow),
        pytest.param(False, "qlora", marks=pytest.mark.slow),
        pytest.param(False, "full", marks=pytest.mark.slow),
    ],
)
def test_the_same_weights(tiny_model, tmp_path, method, packing):
    torch.set_num_threads(1)
    runs = []
    for fused in (True, ["loss", "norm"], False):
        options = recipe(tiny_model, method, packing, steps=3, lr=1e-4, fused=fused)
        runs.append(train(options, run_dir=tmp_path / str(fused)))
    whole, some, plain = ([line["loss"] for line in run.metrics()] for run in runs)
    assert whole == pytest.approx(plain, abs=1e-5)
    assert some == pytest.approx(plain, abs=1e-5)
    assert largest_difference(weights(runs[0]), weights(runs[2])) < 2e-5


@pytest.mark.parametrize(("dropout", "told"), [(0.0, ""), (0.1, "lora")])
def test_what_stays_plain_is_told(tiny_model, tmp_path, capsys, dropout, told):
    train(with_method(recipe(tiny_model, steps=1), dropout=dropout), run_dir=tmp_path / "run")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kernels")]
    assert lines == (
        [f"kernels  none that fit this model and method for {told}: plain PyTorch"] if told else []
    )


def refuse(*_):
    raise AssertionError("a kernel in C")


def test_plain_means_plain(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "call", refuse)
    train(recipe(tiny_model, steps=1, fused=False), run_dir=tmp_path / "run")
    with pytest.raises(AssertionError, match="a kernel in C"):
        train(recipe(tiny_model, steps=1), run_dir=tmp_path / "other")


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_without_a_compiler_it_trains_the_same_and_says_so(tiny_model, tmp_path, monkeypatch, capsys):
    options = recipe(tiny_model, steps=2, lr=1e-4)
    homes = [tmp_path / "compiled", tmp_path / "compiled", tmp_path / "never"]
    runs, told = [], []
    for number, (home, path) in enumerate(zip(homes, (os.environ["PATH"], "", ""), strict=True)):
        monkeypatch.setenv("XTUNE_HOME", str(home))
        monkeypatch.setenv("PATH", path)
        native._library.cache_clear()
        runs.append(train(options, run_dir=tmp_path / str(number)))
        told.append("no C compiler" in capsys.readouterr().err)
    native._library.cache_clear()
    assert told == [False, False, True]  # what was compiled once is kept
    assert largest_difference(weights(runs[0]), weights(runs[1])) == 0
    assert largest_difference(weights(runs[0]), weights(runs[2])) < 2e-5


def test_a_norm_in_float32_before_layers_in_bfloat16():
    """As autocast has it: products are in another type than what norms keep."""
    made = torch.Generator().manual_seed(0)
    states, weight, a, b = (
        torch.randn(*size, generator=made) for size in ((70, 32), (48, 32), (4, 32), (48, 4))
    )
    found = []
    for autocast in (False, True):
        learnt = [one.clone().requires_grad_() for one in (states, a, b)]
        layer = LoraLinear(lambda: weight, None, *learnt[1:])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            (output,) = lora_linears(rms_norm(learnt[0], torch.ones(32), 1e-5), [layer])
        output.sum().backward()
        found.append([output.detach().float(), *(one.grad for one in learnt)])
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() < 0.02 * exact.norm()
