"""Where memory runs out in a step: the settings that help most, and smaller forward passes for the rest of the run."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from xtune.data.batches.plan import Plan, SamplePlan
from xtune.recipe.schema import Recipe
from xtune.terminal import messages
from xtune.training.batches import MicroBatches
from xtune.training.estimate.data import Sampled
from xtune.training.estimate.estimate import estimate_of, this_device
from xtune.training.estimate.show import size

if TYPE_CHECKING:
    from xtune.training.train import Preparation


class Passes:
    """The forward passes of a step as they are run: as the loop deals them, or, once memory ran out, each in several
    smaller ones. A step is the same however it is split.

    smaller   called with the new micro_batch_size where `train.on_oom` is "adapt"; None: the run stops
    """

    def __init__(self, passes: MicroBatches, smaller: Callable[[int], None] | None):
        self.run = passes
        self.smaller = smaller
        self.factor = 1
        self._news: dict[str, int] = {}

    def news(self) -> dict[str, int]:
        """What to log of a step: the size of passes, where it has changed in it."""
        news, self._news = self._news, {}
        return news

    def of(self, step: int, number: int, dealt: dict[str, Any]) -> list[dict[str, Any]]:
        """What is run for the pass of this number that the loop deals in a step."""
        parts = [dealt]
        if self.factor > 1:
            parts = self.run.of_step(step, 0)[number * self.factor : (number + 1) * self.factor]
        return [part for one in parts for part in self.run.smaller(one)]

    def samples(self, step: int) -> list[list[int]]:
        """Of each pass that the loop deals in a step, over all processes."""
        parts = self.run.plan.micro_batches(step)
        return [sum(parts[at : at + self.factor], []) for at in range(0, len(parts), self.factor)]

    def split(self, step: int) -> bool:
        """Make the passes smaller, from this step on (from 0); False where that is not wanted or not possible."""
        plan = self.run.plan
        if self.smaller is None or plan.micro_batch_size == 1:
            return False
        parts = _parts(plan)
        size = plan.micro_batch_size // parts
        self.factor *= parts
        self.run = replace(self.run, plan=replace(plan, micro_batch_size=size))
        messages().print(
            f"memory   ran out in step {step + 1}: from here on, a forward pass takes {size} samples, and a step as "
            f"many more passes (train.micro_batch_size = {size})",
            soft_wrap=True,
        )
        self._news = {"micro_batch_size": size}
        self.smaller(size)
        return True


def _parts(plan: SamplePlan) -> int:
    """The fewest parts into which a forward pass can be split evenly."""
    return next(parts for parts in range(2, plan.micro_batch_size + 1) if plan.micro_batch_size % parts == 0)


def let_go(error: BaseException) -> None:
    """Give back the memory that an error keeps: what was computed before it, in the frames of its traceback."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def advice(recipe: Recipe, preparation: Preparation, plan: Plan, *, checkpointing: bool) -> str:
    """What a step takes and the three settings that would help most, as `xtune estimate` has them; "" where that cannot
    be told.

    plan            as the run came to it, with smaller passes perhaps
    checkpointing   whether activations were computed again
    """
    train = recipe.train.model_copy(update={"gradient_checkpointing": checkpointing})
    trained = recipe.model_copy(update={"train": train})
    try:
        found = estimate_of(trained, Sampled(replace(preparation, plan=plan)), this_device(trained))
    except Exception:  # a model of a kind that estimates do not know: what happened is told without
        return ""
    if not found.helps:
        return ""
    told = ", or ".join(f"{setting} ({size(saved)} less)" for setting, saved in found.helps[:3])
    return f"A step takes about {size(found.memory.step)} beside the weights. What helps most: {told}."
