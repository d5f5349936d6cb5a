"""Where memory runs out in a step: the settings that help most, and smaller forward passes for the rest of the run."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from xtune.data.batches.plan import SamplePlan
from xtune.model.load import is_out_of_memory
from xtune.recipe.schema import Full, Lora, Qlora, Recipe
from xtune.terminal import messages
from xtune.training.batches import MicroBatches, longest_pass
from xtune.training.deepspeed import spreads_weights
from xtune.training.estimate.show import size
from xtune.training.memory import StepMemory, step_memory
from xtune.training.optimizers import STATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NF4 = 0.56  # bytes of a weight, with the scales of its blocks


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


def advice(
    recipe: Recipe, model: PreTrainedModel, passes: MicroBatches, *, half: bool, checkpointing: bool
) -> str:
    """What a step takes and the three settings that would help most, as sentences; "" where that cannot be told.

    half, checkpointing   as the run trained: weights in bfloat16 products, activations computed again
    """
    train = recipe.train
    if spreads_weights(train) or train.sequence_parallel > 1:
        return ""  # all processes would have to take part
    model.zero_grad()
    try:
        step = step_memory(train, model, passes, half=half)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return ""
    again = _checkpointed(step, model, passes)
    now = again if checkpointing else step
    helps = _smaller_steps(recipe, now, passes)
    if not checkpointing and getattr(model, "supports_gradient_checkpointing", False):
        helps["train.gradient_checkpointing = True"] = again.total
    saved = {setting: now.total - total for setting, total in helps.items()} | _saved_by_method(
        recipe, model, now
    )
    best = sorted((one for one in saved if saved[one] > 0), key=saved.__getitem__, reverse=True)[:3]
    told = ", or ".join(f"{setting} ({size(saved[setting])} less)" for setting in best)
    return f"A step takes about {size(now.total)} beside the weights. What helps most: {told}."


def _smaller_steps(recipe: Recipe, now: StepMemory, passes: MicroBatches) -> dict[str, int]:
    """Settings and what a step would take with them."""
    plan, packing = passes.plan, recipe.data.packing
    longest = plan.lengths[longest_pass(passes)]

    def with_pass(share: float) -> int:
        return replace(
            now,
            activations=round(now.activations * share),
            logits=round(now.logits * share),
            accumulating=True,
        ).total

    helps = {}
    if isinstance(plan, SamplePlan) and plan.micro_batch_size > 1:
        fewer = replace(plan, micro_batch_size=plan.micro_batch_size // _parts(plan))
        share = _tokens(replace(passes, plan=fewer)) / _tokens(passes)
        helps[f"train.micro_batch_size = {fewer.micro_batch_size}"] = with_pass(share)
    if (shorter := int(longest.max()) // 2) > 1:
        lengths = longest.clip(max=shorter)
        share = lengths.sum() / longest.sum() if packing else 0.5
        dropped = ", which drops longer samples" if recipe.data.overlong == "drop" else ""
        helps[f"data.max_length = {shorter}{dropped}"] = with_pass(share)
    if recipe.train.optimizer == "adamw":
        smaller = now.optimizer * STATE["adamw_8bit"] / STATE["adamw"]
        helps['train.optimizer = "adamw_8bit"'] = replace(now, optimizer=round(smaller)).total
    return helps


def _saved_by_method(recipe: Recipe, model: PreTrainedModel, now: StepMemory) -> dict[str, int]:
    """What another method would save, of weights and of a step."""
    method = recipe.method
    if isinstance(method, Full):
        return {'method.kind = "lora"': now.gradients + now.optimizer}
    if isinstance(method, Lora) and not isinstance(method, Qlora) and method.init in ("default", "gaussian"):
        kept = model.get_output_embeddings()
        linear = [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one is not kept]
        base = [one.weight for one in linear if not one.weight.requires_grad]
        return {'method.kind = "qlora"': round(sum(w.nbytes - _NF4 * w.numel() for w in base))}
    return {}


def _checkpointed(step: StepMemory, model: PreTrainedModel, passes: MicroBatches) -> StepMemory:
    """With gradient checkpointing: the inputs of all layers are kept, and the activations of one at a time."""
    config = model.config.get_text_config()
    layers = config.num_hidden_layers
    inputs = _tokens(passes) * config.hidden_size * layers * 4
    return replace(step, activations=min(step.activations, inputs + step.activations // layers))


def _tokens(passes: MicroBatches) -> int:
    """Of the longest pass, padding included."""
    lengths = passes.plan.lengths[longest_pass(passes)]
    return int(lengths.sum() if passes.batches.layout.packing else lengths.max() * len(lengths))
