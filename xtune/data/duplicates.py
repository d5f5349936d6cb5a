"""Finds samples that are the same as an earlier one, in 8 bytes a sample."""

from __future__ import annotations

import numpy as np


class Seen:
    """The hashes so far, in sorted arrays of growing size."""

    def __init__(self) -> None:
        self._sorted: list[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Which of the hashes (uint64) were there before, here or earlier: bool, as many; then adds them."""
        before = np.ones(len(hashes), dtype=bool)
        before[np.unique(hashes, return_index=True)[1]] = False
        for known in self._sorted:
            place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            before |= known[place] == hashes
        if not before.all():
            self._sorted.append(np.sort(hashes[~before]))
        # As in a log-structured tree: few arrays, each sorted again only as often as the total doubles.
        while len(self._sorted) > 1 and len(self._sorted[-2]) < 2 * len(self._sorted[-1]):
            self._sorted.append(np.sort(np.concatenate([self._sorted.pop(), self._sorted.pop()])))
        return before
