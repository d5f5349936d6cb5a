"""The plan: every sample once an epoch, reproducible, split into forward passes without loss."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.batches.draw import make_draw
from xtune.data.batches.plan import make_plan
from xtune.recipe.schema import Data, Source, Train


def plan_of(lengths, train, **data):
    lengths = np.asarray(lengths)
    source_of, held = np.zeros(len(lengths), int), np.zeros(len(lengths), bool)
    data = Data(sources=[Source(path="x")], **data)
    return make_plan(train, data, lengths, make_draw(data.sources, source_of, held, train.seed))


@given(
    size=st.integers(1, 40),
    parts=st.integers(1, 4),
    micro=st.integers(1, 4),
    epochs=st.sampled_from([0.5, 1, 2, 3.25]),
    seed=st.integers(0, 5),
    by_length=st.booleans(),
)
def test_epochs_hold_every_sample_once(size, parts, micro, epochs, seed, by_length):
    lengths = np.random.default_rng(seed).integers(1, 100, size)
    train = Train(batch_size=parts * micro, micro_batch_size=micro, epochs=epochs, seed=seed)
    options = {"packing": not by_length, "group_by_length": by_length}
    plan = plan_of(lengths, train, **options)
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
    assert steps == [plan_of(lengths, train, **options).step(step) for step in range(plan.steps)]
    assert plan.epochs() == len(stream) / size


def test_forward_passes_are_balanced():
    plan = plan_of([100, 90, 10, 1], Train(batch_size=4, micro_batch_size=2, steps=1))
    assert sorted(plan.lengths[group].sum() for group in plan.micro_batches(0)) == [100, 101]


def test_steps_go_on_over_epochs():
    plan = plan_of(np.ones(3, dtype=int), Train(batch_size=4, steps=5))
    assert [len(plan.step(step)) for step in range(plan.steps)] == [4] * 5


@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    tokens=st.integers(8, 400),
    epochs=st.sampled_from([1, 1.5, 3]),
    packing=st.booleans(),
    seed=st.integers(0, 3),
)
def test_steps_by_tokens(lengths, tokens, epochs, packing, seed):
    train = Train(batch_tokens=tokens, epochs=epochs, seed=seed)
    plan = plan_of(lengths, train, packing=packing, max_length=64)
    assert plan.capacity == 64
    steps = [plan.micro_batches(step) for step in range(plan.steps)]
    for passes in steps:
        assert len(passes) == plan.accumulation == max(1, round(tokens / 64))
        for row in passes:
            sizes = plan.lengths[row]
            assert (sizes.sum() if packing else len(row) * sizes.max()) <= 64
    # Nothing is lost or doubled within an epoch.
    passes = sum(steps, [])
    one = len(plan.passes(0))
    assert sorted(sum(passes[:one], [])) == list(range(len(lengths)))
    assert abs(plan.epochs() - epochs) <= (plan.accumulation + 1) / one
    assert steps == [
        plan_of(lengths, train, packing=packing, max_length=64).micro_batches(i) for i in range(plan.steps)
    ]
    assert [sorted(plan.step(i)) for i in range(plan.steps)] == [sorted(sum(each, [])) for each in steps]
