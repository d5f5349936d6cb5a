"""The peak of a run's memory, part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import get_args

from xtune.recipe.schema import Full, Kernel, Lora, Qlora, Recipe
from xtune.training.estimate.activations import Computing, kept
from xtune.training.estimate.architecture import Architecture
from xtune.training.estimate.trained import Role, Weights
from xtune.training.optimizers import STATE

SHARE = 0.9
"""Of the free memory that a step may take before activations are computed again."""
GAPS = 0.55
"""Beside adapters on a CPU, of what all layers keep: what passes of several lengths leave between them in memory
(measured: 0.4 to 0.9)."""
_GAPS_CHECKPOINTED = 0.25
"""The same with gradient checkpointing, still of what all layers would keep (measured: 0.19 to 0.31)."""
_LIBRARIES_ON_CPU, _LIBRARIES_ON_GPU = 600 << 20, 500 << 20
_LOGITS_ON_CPU, _LOGITS_ON_GPU = 2**24, 2**27
_ROWS = 2048  # of a product that are there at once, on a CPU


@dataclass(frozen=True)
class Pass:
    """The largest forward pass of a run.

    rows, tokens   of the tensors, padding included; longest: tokens of its longest text
    pairs          of tokens that may see each other: the sum of the squared lengths
    columns        of which the output layer's results are wanted, in each row
    padded         whether its rows have different lengths
    """

    rows: int
    tokens: int
    longest: int
    pairs: int
    columns: int
    padded: bool


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak. On a GPU gradients come as activations go, where nothing is accumulated.

    libraries      PyTorch and others, or on a GPU what CUDA takes
    weights        of the model; adapters, beside it
    activations    what is kept for the backward pass, and what the layer at hand works with
    logits         the outputs and their gradients
    generation     of online objectives: keys and values of the answers, which are gone before the backward pass
    checkpointing  whether activations are computed again
    """

    libraries: int
    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    generation: int
    checkpointing: bool
    accumulating: bool

    @property
    def step(self) -> int:
        """What comes to the weights in a step."""
        passing = max(self.activations + self.logits, self.generation)
        gradients = self.gradients + passing if self.accumulating else max(self.gradients, passing)
        return self.optimizer + gradients

    @property
    def total(self) -> int:
        """At the peak."""
        return self.libraries + self.weights + self.adapters + self.step


def computing(recipe: Recipe, *, on_gpu: bool, size: int) -> Computing:
    """How a recipe's model computes.

    size   bytes of a number of the weights that are not trained: model.dtype's
    """
    kernels = set(get_args(Kernel)) if recipe.train.fused is True else set(recipe.train.fused or ())
    full = isinstance(recipe.method, Full)
    if recipe.train.fsdp or recipe.train.deepspeed in ("zero3", "zero3_offload"):
        kernels -= {"lora", "mlp", "attention"} if recipe.train.deepspeed else set()
    exact = 4 if full else size
    return Computing(
        frozenset(kernels),
        size=2 if full and on_gpu else exact,
        exact=exact,
        on_gpu=on_gpu,
        in_c=not on_gpu and exact == 4,
        packing=recipe.data.packing,
        attention=recipe.model.attention,
    )


def memory(
    recipe: Recipe,
    of: Architecture,
    roles: Mapping[str, Role],
    weights: Weights,
    longest: Pass,
    how: Computing,
    *,
    passes: int,
    processes: int,
    limit: float,
) -> Memory:
    """Of a recipe.

    passes   forward passes of a process in a step
    limit    bytes that the device has, by which gradient_checkpointing = "auto" is decided
    """
    method, train = recipe.method, recipe.train
    share = _shares(recipe, processes)
    half = isinstance(method, Full) and how.on_gpu and train.deepspeed is not None
    # DeepSpeed has the weights in bfloat16, and the optimizer keeps them in float32 besides.
    trained_size, more = (2, 4) if half else (4, 0)
    frozen = (weights.all - weights.quantised) * (trained_size if isinstance(method, Full) else how.size)
    if weights.quantised and not how.on_gpu and of.stored[1] == how.size:
        frozen = of.stored[0]  # what is not quantised stays where it lies in the file, all of which was read
    adapters_on_cpu = not how.on_gpu and not isinstance(method, Full)
    kept_by = kept(method, of, roles, how, longest.padded)

    def parts(checkpointing: bool) -> Memory:
        token = kept_by.checkpointed_token if checkpointing else kept_by.token
        pair = kept_by.checkpointed_pair if checkpointing else kept_by.pair
        columns = longest.rows * longest.columns
        growing = token * longest.tokens + pair * longest.pairs + kept_by.column * columns
        gaps = 0.0
        if adapters_on_cpu:
            among = _GAPS_CHECKPOINTED if checkpointing else GAPS
            gaps = among * (kept_by.token * longest.tokens + kept_by.pair * longest.pairs)
        return Memory(
            libraries=_LIBRARIES_ON_GPU if how.on_gpu else _LIBRARIES_ON_CPU,
            weights=round((frozen + _quantised(method, of)) * share.weights),
            adapters=4 * weights.adapters,
            gradients=round(trained_size * weights.trained * share.gradients),
            optimizer=round((STATE[train.optimizer] + more) * weights.trained * share.optimizer),
            activations=round(growing + gaps + _work(method, of, longest, how)),
            logits=_logits(recipe, of, roles, how, columns),
            generation=_generation(recipe, of, longest, how),
            checkpointing=checkpointing,
            accumulating=not how.on_gpu or passes > 1,
        )

    if train.gradient_checkpointing != "auto":
        return parts(train.gradient_checkpointing)
    plain = parts(False)
    return plain if plain.step <= SHARE * (limit - plain.total + plain.step) else parts(True)


@dataclass(frozen=True)
class _Shares:
    weights: float = 1
    gradients: float = 1
    optimizer: float = 1


def _shares(recipe: Recipe, processes: int) -> _Shares:
    """What each process keeps of what is spread over them. (Of a DeepSpeed file of the user's: as of zero2.)"""
    part, train = 1 / processes, recipe.train
    if train.fsdp:
        return _Shares(part, part, part)
    if train.deepspeed is None:
        return _Shares()
    shares = _Shares(optimizer=part)
    if train.deepspeed != "zero1":
        shares = replace(shares, gradients=part)
    if train.deepspeed.startswith("zero3"):
        shares = replace(shares, weights=part)
    return replace(shares, optimizer=0) if train.deepspeed.endswith("offload") else shares


def _quantised(method: Full | Lora, of: Architecture) -> float:
    """Bytes of the linear layers: NF4 with a scale for each 64 weights, of one byte (and a float for 256 of them)
    where they are quantised again; LLM.int8 with a scale for each row."""
    if not isinstance(method, Qlora):
        return 0
    if method.bits == 8:
        return of.linear_parameters + 4 * sum(outputs for outputs, _ in of.linear.values())
    scale = 1 + 4 / 256 if method.double_quantization else 4
    return of.linear_parameters * (0.5 + scale / 64)


def _work(method: Full | Lora, of: Architecture, longest: Pass, how: Computing) -> float:
    """What a feed-forward layer's backward pass has at hand: gradients of what goes in and out, and of 4 bits, dense
    weights."""
    shapes = [shape for name, shape in of.linear.items() if ".0." in name]
    widest = max((max(shape) for shape in shapes), default=0)
    rows = longest.tokens if how.on_gpu else min(longest.tokens, _ROWS)
    dense = sum(prod(shape) for shape in shapes if max(shape) == widest)
    four_bit = isinstance(method, Qlora) and method.bits == 4
    return how.size * (rows * 3 * (widest + of.hidden) + (dense if four_bit else 0))


def _logits(recipe: Recipe, of: Architecture, roles: Mapping[str, Role], how: Computing, columns: int) -> int:
    if of.output is None or recipe.train.objective.kind == "reward":
        return 0
    outputs = of.output[0]
    if "loss" in how.kernels and not of.norm_head and roles["lm_head"] != "adapted":
        # What comes to a gradient is there beside it; to that of tied weights it comes from both layers.
        at_weights = 4 * prod(of.output) * (1 + of.tied) if roles["lm_head"] == "trained" else 0
        return at_weights + 2 * 4 * min(columns * outputs, _LOGITS_ON_GPU if how.on_gpu else _LOGITS_ON_CPU)
    return 3 * 4 * columns * outputs


def _generation(recipe: Recipe, of: Architecture, longest: Pass, how: Computing) -> int:
    """Keys and values of the answers that are written at once."""
    if not hasattr(recipe.train.objective, "completions"):
        return 0
    answers = min(
        recipe.train.objective.generation_batch, recipe.train.batch_size * recipe.train.objective.completions
    )
    return answers * longest.longest * of.layers * 2 * of.kv_heads * of.head_size * how.size
