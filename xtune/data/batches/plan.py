"""Which samples each optimizer step takes, and how they are split into forward passes.

The order is a pure function of the seed, so a resumed run needs no replay: step 1,000 is known at once.
Epochs follow one another without a short step between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np

from xtune.data.batches.draw import Draw, grouped_by_length
from xtune.data.batches.pack import best_fit
from xtune.recipe.schema import Data, Train


@dataclass(frozen=True, eq=False)
class SamplePlan:
    """The samples of a whole run, so many a step.

    lengths             tokens of each sample, int64 [samples]
    total               samples drawn in the run
    batch_size          samples a step (the last step may have fewer)
    micro_batch_size    samples a forward pass
    by_length           whether samples of a step are of about the same length
    """

    lengths: np.ndarray
    draw: Draw
    total: int
    batch_size: int
    micro_batch_size: int
    by_length: bool = False

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return math.ceil(self.total / self.batch_size)

    @property
    def accumulation(self) -> int:
        """Forward passes a step."""
        return math.ceil(self.batch_size / self.micro_batch_size)

    def epochs(self, steps: int | None = None) -> float:
        """How often the data has been seen after so many steps; None: all."""
        drawn = self.total if steps is None else min(steps * self.batch_size, self.total)
        return drawn / self.draw.size

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.batch_size} samples ({self.epochs():.3g} epochs)"

    def step(self, step: int) -> list[int]:
        """Sample numbers of a step, counted from 0."""
        stream = range(step * self.batch_size, min((step + 1) * self.batch_size, self.total))
        size = self.draw.size
        return [int(self._order(place // size)[place % size]) for place in stream]

    def _order(self, epoch: int) -> np.ndarray:
        return _by_length(self, epoch) if self.by_length else self.draw.epoch(epoch)

    def micro_batches(self, step: int) -> list[list[int]]:
        """The samples of a step, split into forward passes of about the same number of tokens."""
        samples = self.step(step)
        if self.by_length:  # of about the same length instead: less padding
            return [
                samples[start : start + self.micro_batch_size]
                for start in range(0, len(samples), self.micro_batch_size)
            ]
        return evenly(
            samples, self.lengths, math.ceil(len(samples) / self.micro_batch_size), self.micro_batch_size
        )


def evenly(samples: Sequence[int], lengths: np.ndarray, groups: int, most: int) -> list[list[int]]:
    """The samples in so many groups, of at most so many samples and about the same number of tokens each."""
    made: list[list[int]] = [[] for _ in range(groups)]
    tokens = [0] * groups
    for sample in sorted(samples, key=lambda sample: -lengths[sample]):
        lightest = min((g for g in range(groups) if len(made[g]) < most), key=tokens.__getitem__)
        made[lightest].append(sample)
        tokens[lightest] += int(lengths[sample])
    return made


@lru_cache(maxsize=3)
def _by_length(plan: SamplePlan, epoch: int) -> np.ndarray:
    seed = [plan.draw.seed, epoch]
    return grouped_by_length(plan.draw.epoch(epoch), plan.lengths, plan.batch_size, seed)


@dataclass(frozen=True, eq=False)
class TokenPlan:
    """The samples of a whole run, in forward passes of about as many tokens.

    capacity      most tokens of a forward pass, padding included
    accumulation  forward passes a step
    packing       whether rows are packed; else a forward pass is padded to its longest sample
    steps         optimizer steps of the run
    """

    lengths: np.ndarray
    draw: Draw
    capacity: int
    accumulation: int
    packing: bool
    steps: int = 0

    def epochs(self, steps: int | None = None) -> float:
        """How often the data has been seen after so many steps; None: all."""
        passes = (self.steps if steps is None else min(steps, self.steps)) * self.accumulation
        epoch = 0
        while passes > (size := _passes_in(self, epoch)):
            passes -= size
            epoch += 1
        return epoch + passes / size

    def __str__(self) -> str:
        tokens = self.capacity * self.accumulation
        return f"{self.steps} steps of up to {tokens} tokens ({self.epochs():.3g} epochs)"

    def step(self, step: int) -> list[int]:
        """Sample numbers of a step, counted from 0."""
        return sum(self.micro_batches(step), [])

    def micro_batches(self, step: int) -> list[list[int]]:
        """The samples of each forward pass of a step."""
        place, epoch = step * self.accumulation, 0
        while place >= (size := _passes_in(self, epoch)):
            place -= size
            epoch += 1
        found = self.passes(epoch)[place : place + self.accumulation]
        while len(found) < self.accumulation:
            epoch += 1
            found = [*found, *self.passes(epoch)[: self.accumulation - len(found)]]
        return found

    def passes(self, epoch: int) -> list[list[int]]:
        """The forward passes of an epoch."""
        return _passes(self, epoch)


@cache
def _passes_in(plan: TokenPlan, epoch: int) -> int:
    return len(plan.passes(epoch))


@lru_cache(maxsize=4)
def _passes(plan: TokenPlan, epoch: int) -> list[list[int]]:
    samples = plan.draw.epoch(epoch)
    if plan.packing:
        rows = best_fit(samples, plan.lengths, plan.capacity)
    else:
        rows, longest = [[]], 0
        for sample in samples[np.argsort(-plan.lengths[samples], kind="stable")].tolist():
            longest = longest or int(plan.lengths[sample])
            if rows[-1] and (len(rows[-1]) + 1) * longest > plan.capacity:
                rows.append([])
                longest = int(plan.lengths[sample])
            rows[-1].append(sample)
    order = np.random.default_rng([plan.draw.seed, epoch, 4]).permutation(len(rows))
    return [rows[row] for row in order]


Plan = SamplePlan | TokenPlan


def make_plan(train: Train, data: Data, lengths: np.ndarray, draw: Draw, processes: int = 1) -> Plan:
    """The plan of a recipe: `steps`, or `epochs` (3 where neither is given). The number of processes changes how a
    step is split into forward passes, never which samples it takes."""
    if train.batch_tokens is None:
        answered = hasattr(train.objective, "completions")  # a prompt is as many texts as it has answers
        usual = 1 if answered else train.batch_size
        drawn = max(1, round((train.epochs or 3) * draw.size))
        return SamplePlan(
            lengths=lengths,
            draw=draw,
            total=drawn if train.steps is None else train.steps * train.batch_size,
            batch_size=train.batch_size,
            micro_batch_size=min(train.micro_batch_size or usual, math.ceil(train.batch_size / processes)),
            by_length=data.group_by_length and not data.packing,
        )
    accumulation = max(1, round(train.batch_tokens / data.max_length))
    plan = TokenPlan(lengths, draw, data.max_length, accumulation, data.packing, train.steps or 0)
    if train.steps is not None:
        return plan
    epochs = train.epochs or 3
    whole, part = divmod(epochs, 1)
    passes = sum(_passes_in(plan, epoch) for epoch in range(int(whole)))
    passes += round(part * len(plan.passes(int(whole)))) if part else 0
    return replace(plan, steps=max(1, math.ceil(passes / accumulation)))
