"""Packs samples into rows of a fixed capacity, none cut, with little left empty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def best_fit(samples: Sequence[int], lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """The samples in rows of at most `capacity` tokens, longest first, each into the fullest row that has room.

    lengths   int [all samples]: tokens of each; what is longer than the capacity has a row of its own

    Best-fit decreasing (Johnson 1973) never needs more than 11/9 of the fewest rows possible, and in practice, where
    short samples abound, hardly more than those. Takes O(samples) steps: the rows with the same room are a stack, and
    which stacks have any is a number with a bit for each.
    """
    samples = np.asarray(samples, dtype=np.int64)
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    some = 0  # bit r: a row has room for r tokens
    for sample in samples[np.argsort(-lengths[samples], kind="stable")].tolist():
        length = int(lengths[sample])
        fitting = some >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = with_room[room].pop()
            if not with_room[room]:
                some ^= 1 << room
            rows[row].append(sample)
        else:
            room, row = max(capacity, length), len(rows)
            rows.append([sample])
        if room > length:
            with_room[room - length].append(row)
            some |= 1 << (room - length)
    return rows
