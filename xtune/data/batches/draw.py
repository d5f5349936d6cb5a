"""Which samples an epoch holds, in which order: a pure function of the seed, so that a resumed run replays nothing.

Of a source with weight 0.5 an epoch holds every other sample, and the next epoch the others; with weight 2 each
twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from xtune.recipe.schema import Source


@dataclass(frozen=True, eq=False)
class Draw:
    """The samples of epochs.

    members   of each source: the numbers of its samples, int64
    quotas    of each source: samples in an epoch
    """

    members: tuple[np.ndarray, ...]
    quotas: tuple[int, ...]
    seed: int

    @property
    def size(self) -> int:
        """Samples in an epoch."""
        return sum(self.quotas)

    def epoch(self, epoch: int) -> np.ndarray:
        """Sample numbers of an epoch in order, int64 [size]."""
        return _epoch(self, epoch)


@lru_cache(maxsize=3)
def _epoch(draw: Draw, epoch: int) -> np.ndarray:
    parts = [
        _take(members, epoch * quota, quota, [draw.seed, number])
        for number, (members, quota) in enumerate(zip(draw.members, draw.quotas, strict=True))
    ]
    together = np.concatenate(parts)
    return together[np.random.default_rng([draw.seed, epoch]).permutation(len(together))]


def make_draw(sources: Sequence[Source], source_of: np.ndarray, held_out: np.ndarray, seed: int) -> Draw:
    """The draw of a recipe's sources.

    source_of   int [samples]: number of each sample's source
    held_out    bool [samples]: what is kept from training
    """
    members, quotas = [], []
    for number, source in enumerate(sources):
        mine = np.flatnonzero((source_of == number) & ~held_out)
        if len(mine):
            members.append(mine)
            quotas.append(source.count or max(1, round((source.weight or 1) * len(mine))))
    return Draw(tuple(members), tuple(quotas), seed)


def hold_out(groups: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """Which samples are kept from training: bool [samples]. Those of one group stay together.

    groups   uint64 [samples]: the same for duplicates (Chunk.groups)
    wanted   a share below 1, or a number of samples; at least one sample is left to train on
    """
    held = np.zeros(len(groups), dtype=bool)
    target = round(wanted * len(groups)) if wanted < 1 else int(wanted)
    if not target:
        return held
    distinct, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    taken = np.zeros(len(distinct), dtype=bool)
    count = 0
    for group in np.random.default_rng([seed, 1]).permutation(len(distinct))[:-1]:
        if count + sizes[group] <= target:
            taken[group] = True
            count += sizes[group]
        if count == target:
            break
    return taken[group_of]


def grouped_by_length(
    samples: np.ndarray, lengths: np.ndarray, batch_size: int, seed: Sequence[int]
) -> np.ndarray:
    """The samples in another order, in which those of a batch are of about the same length.

    Only within stretches of 50 batches, so that chance keeps a say in which come together.
    """
    random = np.random.default_rng([*seed, 2])
    stretches = []
    for start in range(0, len(samples), 50 * batch_size):
        stretch = samples[start : start + 50 * batch_size]
        stretches.append(stretch[np.argsort(-lengths[stretch], kind="stable")])
    ordered = np.concatenate(stretches) if stretches else samples
    whole = len(ordered) // batch_size * batch_size
    batches = ordered[:whole].reshape(-1, batch_size)
    return np.concatenate([batches[random.permutation(len(batches))].ravel(), ordered[whole:]])


def _take(members: np.ndarray, start: int, count: int, seed: Sequence[int]) -> np.ndarray:
    """A stretch of the endless row of permutations of `members`."""
    size = len(members)
    blocks = range(start // size, math.ceil((start + count) / size))
    row = np.concatenate(
        [members[np.random.default_rng([*seed, block, 3]).permutation(size)] for block in blocks]
    )
    return row[start - blocks[0] * size :][:count]
