"""The forward passes of a run, dealt to the processes that run it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtune.data.batches.plan import Plan, SamplePlan, evenly
from xtune.recipe.schema import Recipe
from xtune.training.layout import Layout
from xtune.training.objective import Objective

_STEPS = 500  # looked through for the longest pass, at most
_TOKENS_ON_CPU = 768
"""Of a packed forward pass, about: more are hardly faster and take memory."""


@dataclass(frozen=True)
class Batches:
    """Samples to what an objective takes (Objective.loss)."""

    objective: Objective
    layout: Layout

    def of(self, samples: Sequence[int], nothing: int = 0) -> dict[str, Any]:
        """The tensors of these samples, and their numbers; without any, of a sample of which nothing is learnt."""
        texts = [text for sample in samples for text in self.objective.texts(sample)]
        tensors = self.layout.collate(texts) if texts else self.layout.empty(self.objective.texts(nothing))
        return {**tensors, "samples": list(samples)}


@dataclass(frozen=True)
class MicroBatches:
    """Every forward pass of a run in order. Of each step, process p of n takes passes p, p + n, p + 2n …

    processes   n; with several, each has the same number of passes, the last of which may be empty. Those that share
                the tokens of their rows count as one, and each gets its stretch
    most        tokens of a pass that is run at once: what is dealt with more is split by `parts`; None: nothing is
    """

    batches: Batches
    plan: Plan
    processes: int = 1
    most: int | None = None

    @property
    def passes(self) -> int:
        """Forward passes of each process in a step."""
        return math.ceil(self.plan.accumulation / self.processes)

    def __len__(self) -> int:
        whole = self.passes * self.processes
        sharing = self.batches.layout.processes
        if self.processes * sharing > 1:
            return self.plan.steps * whole * sharing
        return (self.plan.steps - 1) * whole + len(self.plan.micro_batches(self.plan.steps - 1))

    def of_step(self, step: int, process: int) -> list[dict[str, Any]]:
        """What one of all processes takes in a step, pass by pass."""
        each = self.processes * self.batches.layout.processes
        places = range(
            step * self.passes * each + process, min((step + 1) * self.passes * each, len(self)), each
        )
        return [self[place] for place in places]

    def parts(self, samples: Sequence[int]) -> list[list[int]]:
        """A pass's samples in as many smaller passes as `most` asks for, of about the same number of tokens."""
        total = int(self.plan.lengths[samples].sum())
        parts = 1 if self.most is None else min(len(samples), math.ceil(total / self.most))
        return evenly(samples, self.plan.lengths, max(1, parts), len(samples))

    def smaller(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """What is run for one that was dealt."""
        parts = self.parts(batch["samples"])
        if len(parts) == 1:
            return [batch]
        made = [{**self.batches.of(part), "weight": batch["weight"]} for part in parts]
        return [{**batch, **made[0]}, *made[1:]]  # what comes with a step comes once

    def __getitem__(self, index: int) -> dict[str, Any]:
        index //= self.batches.layout.processes
        step, part = divmod(index, self.passes * self.processes)
        parts = self.plan.micro_batches(step)
        samples = [sample for one in parts for sample in one]
        if self.processes > 1:
            parts += [[]] * (self.passes * self.processes - len(parts))
        batch = self.batches.of(parts[part])
        batch["weight"] = self.batches.objective.weight(samples)
        if part < self.processes:
            batch["share"] = parts[part :: self.processes]
            batch["seen"] = _seen_before(parts)[part :: self.processes]
            batch["step"] = step
        return batch


def longest_pass(passes: MicroBatches) -> list[int]:
    """The samples of the forward pass with the most tokens, padding included."""
    plan, packing = passes.plan, passes.batches.layout.packing

    def tokens(samples: list[int]) -> int:
        lengths = plan.lengths[samples]
        return lengths.sum() if packing else lengths.max() * len(lengths)

    steps = range(0, plan.steps, math.ceil(plan.steps / _STEPS))
    dealt = (samples for step in steps for samples in plan.micro_batches(step))
    return max((part for samples in dealt for part in passes.parts(samples)), key=tokens)


def most_tokens(recipe: Recipe, *, on_cpu: bool, processes: int) -> int | None:
    """Of a forward pass that the recipe leaves to us (MicroBatches.most)."""
    own = recipe.train.micro_batch_size is None and recipe.data.packing
    alone = processes == 1 and not recipe.train.deepspeed  # which counts the passes
    return _TOKENS_ON_CPU if own and alone and on_cpu else None


def passes_without_learning(plan: Plan, samples: Sequence[int], processes: int) -> list[list[int]]:
    """Samples in forward passes no larger than those of training, which the memory is known to do for: the shortest
    first, and as many passes for each process, of which the last may be empty."""
    most, room = math.inf, math.inf
    if isinstance(plan, SamplePlan):
        most = plan.micro_batch_size
    else:
        room = plan.capacity
    passes: list[list[int]] = [[]]
    for sample in sorted(samples, key=plan.lengths.__getitem__):
        longer = len(passes[-1]) + 1
        if passes[-1] and (longer > most or longer * plan.lengths[sample] > room):
            passes.append([])
        passes[-1].append(sample)
    return passes + [[]] * (-len(passes) % processes)


def _seen_before(parts: Sequence[Sequence[int]]) -> list[list[int]]:
    """How often the same sample stands before each one in a step."""
    counts: Counter[int] = Counter()
    before: list[list[int]] = []
    for part in parts:
        before.append([])
        for sample in part:
            before[-1].append(counts[sample])
            counts[sample] += 1
    return before
