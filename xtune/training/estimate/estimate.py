"""What a recipe takes: memory, steps, time and disk, before any weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from xtune.data.batches.plan import SamplePlan
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.model.devices import choose_device, dtype_name, has_gpu
from xtune.recipe.schema import Full, Lora, Qlora, Recipe
from xtune.run.memory import free_memory, free_ram
from xtune.training.estimate.architecture import Architecture, read_architecture
from xtune.training.estimate.data import Sampled, largest_pass, sampled
from xtune.training.estimate.memory import Memory, Pass, computing, memory
from xtune.training.estimate.speed import operations, operations_a_second
from xtune.training.estimate.trained import Weights, roles, weights
from xtune.training.optimizers import STATE
from xtune.training.train import Preparation

_STEPS = 50  # looked at for how long one takes
_WORTH = 0.01  # of the peak, that a setting has to save to be told


@dataclass(frozen=True)
class Device:
    """Where a recipe is to train.

    name    for people
    limit   bytes that a process can have of it
    here    whether it is in this machine, so that its speed can be measured
    """

    name: str
    on_gpu: bool
    limit: float
    here: bool
    dtype: str


@dataclass(frozen=True)
class Estimate:
    """What is told of a recipe; bytes, seconds and numbers.

    sampled         whether only the first records of large files were looked at
    step_tokens     of a step on average, without padding; step_labels: those with loss
    longest         its largest forward pass
    passes          forward passes of a step and process
    seconds         of all steps; None where the device is not here, or the answers are written in training
    checkpoint      bytes of one; result: of what the run leaves
    helps           settings that make the peak lower, and by how many bytes, best first
    """

    model: str
    method: str
    processes: int
    device: Device
    weights: Weights
    context: int | None
    samples: int
    tokens: int
    labels: int
    sampled: bool
    steps: int
    step_tokens: int
    step_labels: int
    passes: int
    longest: Pass
    memory: Memory
    seconds: float | None
    checkpoint: int
    checkpoints: int
    result: int
    helps: tuple[tuple[str, int], ...]

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.memory.total <= self.device.limit


def this_device(recipe: Recipe) -> Device:
    """The one that a run would take here."""
    dtype = dtype_name(recipe.model.dtype)
    if not has_gpu():
        return Device("this CPU", False, free_ram(), True, dtype)
    import torch

    gpu = torch.device(choose_device())
    return Device(torch.cuda.get_device_name(gpu), True, free_memory(gpu), True, dtype)


def a_gpu(recipe: Recipe, gibibytes: float) -> Device:
    """One with so much memory, wherever it is."""
    dtype = "bfloat16" if recipe.model.dtype == "auto" else recipe.model.dtype
    return Device(f"a GPU with {gibibytes:g} GB", True, gibibytes * 2**30, False, dtype)


def estimate(recipe: Recipe, device: Device, processes: int = 1) -> Estimate:
    """Of a recipe. Raises UserErrors for what is wrong with it, its model or its data."""
    return estimate_of(recipe, sampled(recipe, processes), device)


def estimate_of(recipe: Recipe, data: Sampled, device: Device) -> Estimate:
    """Of a recipe whose data is prepared."""
    preparation, model = data.preparation, recipe.model
    of = read_architecture(model_directory(model.path), Options.of(model))
    by_role = roles(recipe, of)
    numbers = weights(recipe, of, by_role)
    processes, plan, dataset = preparation.processes, preparation.plan, preparation.dataset
    longest = largest_pass(recipe, preparation, on_cpu=not device.on_gpu)
    peak = _memory(recipe, of, preparation, longest, device)
    tokens, labels, pairs = _of_a_step(preparation)
    seconds = None
    if device.here and not hasattr(recipe.train.objective, "completions"):
        count = operations(
            recipe.method, of, numbers, tokens=tokens, labels=labels, pairs=pairs, again=peak.checkpointing
        )
        seconds = data.steps * count / operations_a_second(of, _dtype(recipe, device), on_gpu=device.on_gpu)
        seconds /= processes if device.on_gpu else 1
    every = recipe.train.checkpoint_every or max(1, data.steps // 10)
    full = isinstance(recipe.method, Full)
    return Estimate(
        model=model.path,
        method=recipe.method.kind,
        processes=processes,
        device=device,
        weights=numbers,
        context=of.context,
        samples=round(len(dataset) * data.more),
        tokens=round(dataset.lengths.sum() * data.more),
        labels=round(dataset.loss_lengths.sum() * data.more),
        sampled=data.more != 1,
        steps=data.steps,
        step_tokens=round(tokens),
        step_labels=round(labels),
        passes=math.ceil(plan.accumulation / processes),
        longest=longest,
        memory=peak,
        seconds=seconds,
        checkpoint=round((4 + STATE[recipe.train.optimizer]) * numbers.trained),
        checkpoints=min(recipe.train.keep_checkpoints, math.ceil(data.steps / every)),
        result=numbers.all * 4 if full else numbers.trained * 4,
        helps=tuple(_helps(recipe, of, preparation, peak, device)),
    )


def _dtype(recipe: Recipe, device: Device) -> str:
    full = isinstance(recipe.method, Full)
    return "float32" if (full and not device.on_gpu) or device.dtype == "float32" else "bfloat16"


def _memory(
    recipe: Recipe, of: Architecture, preparation: Preparation, longest: Pass, device: Device
) -> Memory:
    by_role = roles(recipe, of)
    processes = preparation.processes
    return memory(
        recipe,
        of,
        by_role,
        weights(recipe, of, by_role),
        longest,
        computing(recipe, on_gpu=device.on_gpu, size=4 if device.dtype == "float32" else 2),
        passes=math.ceil(preparation.plan.accumulation / processes),
        processes=processes,
        limit=device.limit if device.on_gpu else device.limit / processes,
    )


def _of_a_step(preparation: Preparation) -> tuple[float, float, float]:
    """(tokens, labels, pairs of tokens) of a step on average."""
    plan, dataset = preparation.plan, preparation.dataset
    steps = range(0, plan.steps, math.ceil(plan.steps / _STEPS))
    taken = [sample for step in steps for sample in plan.step(step)]
    squares = np.diff(dataset.offsets).astype(np.int64).reshape(len(dataset), -1) ** 2
    sums = dataset.lengths[taken].sum(), dataset.loss_lengths[taken].sum(), squares[taken].sum()
    return tuple(float(total) / len(steps) for total in sums)


def _helps(
    recipe: Recipe, of: Architecture, preparation: Preparation, peak: Memory, device: Device
) -> Iterator[tuple[str, int]]:
    """The settings that make the peak lower, and by how many bytes."""
    found = []
    for setting, changed, prepared, share in _changed(recipe, preparation, peak):
        longest = largest_pass(changed, prepared, on_cpu=not device.on_gpu)
        longest = replace(
            longest,
            tokens=math.ceil(longest.tokens * share),
            columns=math.ceil(longest.columns * share),
            pairs=math.ceil(longest.pairs * share**2),
        )
        less = peak.total - _memory(changed, of, prepared, longest, device).total
        if less > _WORTH * peak.total:
            found.append((setting, less))
    yield from sorted(found, key=lambda one: -one[1])


def _changed(
    recipe: Recipe, preparation: Preparation, peak: Memory
) -> Iterator[tuple[str, Recipe, Preparation, float]]:
    """(setting, the recipe with it, what is prepared, the share of the tokens that is left)"""
    train, method, plan = recipe.train, recipe.method, preparation.plan

    def with_train(**values) -> Recipe:
        return recipe.model_copy(update={"train": train.model_copy(update=values)})

    if isinstance(plan, SamplePlan) and plan.micro_batch_size > 1:
        size = max(n for n in range(1, plan.micro_batch_size) if plan.micro_batch_size % n == 0)
        changed = with_train(micro_batch_size=size)
        yield (
            f"train.micro_batch_size = {size}",
            changed,
            replace(preparation, plan=replace(plan, micro_batch_size=size)),
            1,
        )
    longest = int(preparation.dataset.lengths.max())
    if longest > 16:
        dropped = ", which drops longer samples" if recipe.data.overlong in ("auto", "drop") else ""
        half = min(longest, recipe.data.max_length) // 2
        yield f"data.max_length = {half}{dropped}", recipe, preparation, half / longest
    if not peak.checkpointing:
        yield "train.gradient_checkpointing = True", with_train(gradient_checkpointing=True), preparation, 1
    if train.optimizer == "adamw" and not train.fsdp:
        yield 'train.optimizer = "adamw_8bit"', with_train(optimizer="adamw_8bit"), preparation, 1
    if isinstance(method, Full):
        other: Lora = Lora(kind="lora")
    elif not isinstance(method, Qlora) and method.init in ("default", "gaussian"):
        other = Qlora.model_validate({**method.model_dump(), "kind": "qlora"})
    else:
        return
    yield f'method.kind = "{other.kind}"', recipe.model_copy(update={"method": other}), preparation, 1
