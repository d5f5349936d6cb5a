"""On a CPU a packed step is run in forward passes of about so many tokens, and comes out the same."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.test_sft import largest_difference, recipe, weights
from xtune.training.batches import MicroBatches
from xtune.training.train import train


@given(
    lengths=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
    most=st.one_of(st.none(), st.integers(1, 3000)),
)
def test_each_sample_is_in_one_of_the_passes(lengths, most):
    plan = SimpleNamespace(lengths=np.array(lengths))
    parts = MicroBatches(None, plan, most=most).parts(range(len(lengths)))
    assert sorted(sum(parts, [])) == list(range(len(lengths)))
    assert all(parts)
    if most is None or sum(lengths) <= most:
        assert len(parts) == 1
    elif len(parts) < len(lengths):  # as evenly as whole samples allow
        assert max(sum(lengths[one] for one in part) for part in parts) <= most + max(lengths)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_is_the_same_in_smaller_passes(tiny_model, tmp_path, monkeypatch, method):
    learnt = []
    for name, most in (("whole", 10**9), ("parts", 100)):
        monkeypatch.setattr("xtune.training.batches._TOKENS_ON_CPU", most)
        learnt.append(train(recipe(tiny_model, method, steps=3, lr=1e-4), run_dir=tmp_path / name))
    whole, parts = (run.metrics() for run in learnt)
    for one, other in zip(whole, parts, strict=True):
        assert one["tokens"] == other["tokens"] > 200
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    assert largest_difference(*map(weights, learnt)) < 2e-5
