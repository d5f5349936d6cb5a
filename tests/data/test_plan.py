"""The plan: every sample once an epoch, reproducible, split into forward passes without loss."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.plan import make_plan
from xtune.recipe.schema import Train


@given(
    size=st.integers(1, 40),
    parts=st.integers(1, 4),
    micro=st.integers(1, 4),
    epochs=st.sampled_from([0.5, 1, 2, 3.25]),
    seed=st.integers(0, 5),
)
def test_epochs_hold_every_sample_once(size, parts, micro, epochs, seed):
    lengths = np.random.default_rng(seed).integers(1, 100, size)
    train = Train(batch_size=parts * micro, micro_batch_size=micro, epochs=epochs, seed=seed)
    plan = make_plan(train, lengths)
    steps = [plan.step(step) for step in range(plan.steps)]
    stream = sum(steps, [])
    assert len(stream) == plan.total == max(1, round(epochs * size))
    for start in range(0, len(stream), size):
        epoch = stream[start : start + size]
        assert len(set(epoch)) == len(epoch)
    for step, samples in enumerate(steps):
        groups = plan.micro_batches(step)
        assert sorted(sum(groups, [])) == sorted(samples)
        assert all(0 < len(group) <= micro for group in groups)
        assert len(groups) <= plan.accumulation
    assert steps == [make_plan(train, lengths).step(step) for step in range(plan.steps)]


def test_forward_passes_are_balanced():
    plan = make_plan(Train(batch_size=4, micro_batch_size=2, steps=1), np.array([100, 90, 10, 1]))
    assert sorted(plan.lengths[group].sum() for group in plan.micro_batches(0)) == [100, 101]


def test_steps_go_on_over_epochs():
    plan = make_plan(Train(batch_size=4, steps=5), np.ones(3, dtype=int))
    assert [len(plan.step(step)) for step in range(plan.steps)] == [4] * 5
