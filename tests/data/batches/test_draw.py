"""Mixing and holding out: shares as the recipe says, every sample as often as the others, duplicates together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.batches.draw import grouped_by_length, hold_out, make_draw
from xtune.recipe.schema import Source

WEIGHTS = st.sampled_from([None, 0.25, 0.5, 1, 1.5, 2, 3])


def sources(weights, counts=None):
    counts = counts or [None] * len(weights)
    return [Source(path="x", weight=w, count=c) for w, c in zip(weights, counts, strict=True)]


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    weights=st.lists(WEIGHTS, min_size=3, max_size=3),
    seed=st.integers(0, 3),
)
def test_epochs_hold_each_source_by_its_weight_and_treat_its_samples_alike(sizes, weights, seed):
    source_of = np.repeat(np.arange(len(sizes)), sizes)
    draw = make_draw(sources(weights[: len(sizes)]), source_of, np.zeros(len(source_of), bool), seed)
    seen = np.zeros(len(source_of), int)
    for epoch in range(4):
        samples = draw.epoch(epoch)
        assert len(samples) == draw.size
        for number, size in enumerate(sizes):
            assert (source_of[samples] == number).sum() == max(1, round((weights[number] or 1) * size))
        np.add.at(seen, samples, 1)
        for number in range(len(sizes)):
            of_source = seen[source_of == number]
            assert of_source.max() - of_source.min() <= 1
    again = make_draw(sources(weights[: len(sizes)]), source_of, np.zeros(len(source_of), bool), seed)
    assert np.array_equal(again.epoch(3), draw.epoch(3))


def test_a_count_and_what_is_held_out():
    source_of = np.repeat([0, 1], [10, 30])
    held = np.zeros(40, bool)
    held[:5] = True
    draw = make_draw(sources([None, None], [20, 3]), source_of, held, 0)
    samples = draw.epoch(0)
    assert len(samples) == 23
    assert not held[samples].any()
    assert sorted(np.bincount(samples[samples < 10], minlength=10)) == [0] * 5 + [4] * 5


@given(
    groups=st.lists(st.integers(0, 8), min_size=1, max_size=60),
    wanted=st.sampled_from([0, 0.1, 0.3, 0.9, 1, 5, 1000]),
    seed=st.integers(0, 3),
)
def test_held_out_samples_share_no_group_with_the_rest(groups, wanted, seed):
    groups = np.array(groups, dtype=np.uint64)
    held = hold_out(groups, wanted, seed)
    target = round(wanted * len(groups)) if wanted < 1 else wanted
    assert held.sum() <= target
    assert not held.all()
    assert not set(groups[held].tolist()) & set(groups[~held].tolist())
    assert np.array_equal(held, hold_out(groups, wanted, seed))


def test_as_many_are_held_out_as_asked_for_where_all_differ():
    assert hold_out(np.arange(1000, dtype=np.uint64), 0.05, 0).sum() == 50
    assert hold_out(np.arange(1000, dtype=np.uint64), 7, 0).sum() == 7


@given(lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200), batch=st.integers(1, 8))
def test_grouping_by_length_keeps_all_samples(lengths, batch):
    lengths = np.array(lengths)
    samples = np.random.default_rng(0).permutation(len(lengths))
    ordered = grouped_by_length(samples, lengths, batch, [0, 0])
    assert sorted(ordered) == sorted(samples)


def test_grouping_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(10, 1000, 800)

    def padded(order):
        batches = lengths[order].reshape(-1, 8)
        return (batches.max(1) * 8).sum()

    assert padded(grouped_by_length(np.arange(800), lengths, 8, [0, 0])) < 0.7 * padded(np.arange(800))
