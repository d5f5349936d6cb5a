"""Which samples each optimizer step takes, and how they are split into forward passes.

The order is a pure function of the seed, so a resumed run needs no replay: step 1,000 is known at once.
Epochs follow one another without a short step between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from xtune.recipe.schema import Train


@dataclass(frozen=True, eq=False)
class Plan:
    """The samples of a whole run.

    lengths             tokens of each sample, int64 [samples]
    total               samples drawn in the run
    batch_size          samples a step (the last step may have fewer)
    micro_batch_size    samples a forward pass
    """

    lengths: np.ndarray
    total: int
    batch_size: int
    micro_batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return math.ceil(self.total / self.batch_size)

    @property
    def accumulation(self) -> int:
        """Forward passes a step."""
        return self.batch_size // self.micro_batch_size

    def step(self, step: int) -> list[int]:
        """Sample numbers of a step, counted from 0."""
        stream = range(step * self.batch_size, min((step + 1) * self.batch_size, self.total))
        size = len(self.lengths)
        return [int(_order(size, self.seed, place // size)[place % size]) for place in stream]

    def micro_batches(self, step: int) -> list[list[int]]:
        """The samples of a step, split into forward passes of about the same number of tokens."""
        samples = self.step(step)
        groups: list[list[int]] = [[] for _ in range(math.ceil(len(samples) / self.micro_batch_size))]
        tokens = [0] * len(groups)
        for sample in sorted(samples, key=lambda sample: -self.lengths[sample]):
            open_groups = [g for g, group in enumerate(groups) if len(group) < self.micro_batch_size]
            lightest = min(open_groups, key=tokens.__getitem__)
            groups[lightest].append(sample)
            tokens[lightest] += int(self.lengths[sample])
        return groups


def make_plan(train: Train, lengths: np.ndarray) -> Plan:
    """The plan of a recipe's `train` section: `steps`, or `epochs` (3 where neither is given)."""
    if train.steps is not None:
        total = train.steps * train.batch_size
    else:
        total = max(1, round((train.epochs or 3) * len(lengths)))
    return Plan(
        lengths=lengths,
        total=total,
        batch_size=train.batch_size,
        micro_batch_size=train.micro_batch_size or train.batch_size,
        seed=train.seed,
    )


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
