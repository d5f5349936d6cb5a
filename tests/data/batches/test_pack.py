"""Packing by best fit: every sample once, none cut, little empty, whatever the lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtune.data.batches.pack import best_fit


@given(st.lists(st.integers(1, 70), max_size=60), st.integers(1, 64))
def test_every_sample_is_in_one_row_and_rows_are_not_too_long(lengths, capacity):
    lengths = np.array(lengths, dtype=np.int64)
    rows = best_fit(range(len(lengths)), lengths, capacity)
    assert sorted(sum(rows, [])) == list(range(len(lengths)))
    for row in rows:
        assert lengths[row].sum() <= capacity or len(row) == 1
    fitting = [row for row in rows if lengths[row].sum() <= capacity]
    total = sum(int(lengths[row].sum()) for row in fitting)
    assert (
        len(fitting) <= 11 / 9 * max(total / capacity, 0) * 2 + 1
    )  # at most half of the rows' room is empty
    filled = [int(lengths[row].sum()) for row in fitting]
    assert sum(2 * each <= capacity for each in filled) <= 1


def test_only_the_samples_asked_for_in_a_given_order():
    lengths = np.array([5, 6, 4, 5, 3])
    assert sorted(sum(best_fit([4, 0, 2], lengths, 10), [])) == [0, 2, 4]
    assert best_fit([1, 2], lengths, 10) == [[1, 2]]


def test_padding_of_lengths_like_alpacas():
    # A mixture like that of instruction data: many short, a few long.
    random = np.random.default_rng(0)
    lengths = np.minimum(random.lognormal(5, 0.8, 3000).astype(int) + 20, 2048)
    rows = best_fit(range(len(lengths)), lengths, 2048)
    assert 1 - lengths.sum() / (2048 * len(rows)) < 0.02
