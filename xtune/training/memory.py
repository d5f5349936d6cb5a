"""The memory of a step, told before the first: gradient checkpointing where it would not do.

What one layer keeps for the backward pass depends on the model's code, the attention kernel, the adapters and types.
So a short sample is sent through the model, and what is kept of it is counted and scaled to the longest pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import Encoded
from xtune.errors import RecipeError
from xtune.kernels.linear_cross_entropy import logits_at_once
from xtune.model.fused import losses_wanted
from xtune.model.load import is_out_of_memory
from xtune.model.log_probs import forward, kept_labels
from xtune.ranks import ranks
from xtune.recipe.schema import Train
from xtune.run.memory import free_memory
from xtune.terminal import messages
from xtune.training.batches import MicroBatches, longest_pass
from xtune.training.estimate.memory import GAPS, SHARE
from xtune.training.group import gathered
from xtune.training.layout import on_device
from xtune.training.optimizers import STATE

_SHORT = 513  # tokens of the short text, at most


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a step takes besides the weights, at its peak.

    activations   kept for the backward pass of the longest forward pass
    logits        of it: the outputs in float32, and their gradients twice; of the fused loss a part at a time
    gradients     of the trained weights
    optimizer     its state
    accumulating  whether gradients are there when the activations are: those of earlier passes, or, on a CPU, of the
                  step before, whose memory is not given back at once
    """

    activations: int
    logits: int
    gradients: int
    optimizer: int
    accumulating: bool

    @property
    def total(self) -> int:
        """Of all; where nothing is accumulated, gradients come as activations go."""
        passing = self.activations + self.logits
        if self.accumulating:
            return self.optimizer + self.gradients + passing
        return self.optimizer + max(self.gradients, passing)


def use_checkpointing(train: Train, model: PreTrainedModel, batches: MicroBatches, *, half: bool) -> bool:
    """Whether activations are to be computed again in the backward pass: as the recipe says, or, of "auto", where a
    step would take more than SHARE of the free memory, which is told.

    half   whether weights in float32 are multiplied in bfloat16

    Raises RecipeError where the recipe demands it and the model's class cannot.
    """
    supported = getattr(model, "supports_gradient_checkpointing", False)
    if train.gradient_checkpointing is True and not supported:
        raise RecipeError(
            f"The class of this model ({type(model).__name__}) has no gradient checkpointing.",
            where="train.gradient_checkpointing",
            fix="Use False, with fewer samples in a forward pass (train.micro_batch_size) or a lower data.max_length.",
        )
    if train.gradient_checkpointing != "auto" or not supported:
        return train.gradient_checkpointing is True
    free = free_memory(model.device)
    try:
        step = step_memory(train, model, batches, half=half).total
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        step = math.inf  # not even the short text fits
    if ranks() > 1:  # one decision: computing again gathers weights that are spread over the processes
        free = free // ranks() if model.device.type == "cpu" else free
        step, free = max(gathered((step, free)), key=lambda one: one[0] - SHARE * one[1])
    if step <= SHARE * free:
        return False
    messages().print(
        f"memory   a step would take {step / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free: "
        "activations are computed again in the backward pass (train.gradient_checkpointing)",
        soft_wrap=True,
    )
    return True


def step_memory(train: Train, model: PreTrainedModel, batches: MicroBatches, *, half: bool) -> StepMemory:
    """Of a step without gradient checkpointing."""
    objective, layout = batches.batches.objective, batches.batches.layout
    texts_of = getattr(objective, "longest_texts", objective.texts)  # answers are not written yet
    samples = longest_pass(batches)
    longest = layout.collate([text for sample in samples for text in texts_of(sample)])
    texts = [objective.texts(sample)[0] for sample in batches.plan.step(0)]
    text = min(texts, key=_unlike_a_layer)
    text = Encoded(text.input_ids[:_SHORT], text.labels[:_SHORT])
    shorter = Encoded(text.input_ids[:-9], text.labels[:-9])  # padding takes a mask
    padded = not layout.packing and len(longest["input_ids"]) > 1 and len(text) > 32
    short = collate([text, shorter] if padded else [text], packing=layout.packing, pad_id=layout.pad_id)
    fixed, growing, logits = kept_for_backward(model, short, longest, half=half)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    spread = ranks() if train.is_spread else 1
    on_cpu = model.device.type == "cpu"
    gaps = 1 + GAPS if on_cpu and len(trained) < len(list(model.parameters())) else 1
    return StepMemory(
        activations=round(fixed + gaps * growing),
        logits=round(gaps * logits),
        gradients=sum(weight.nbytes for weight in trained) // spread,
        optimizer=round(STATE[train.optimizer] * sum(weight.numel() for weight in trained)) // spread,
        accumulating=on_cpu or batches.passes > 1,
    )


def kept_for_backward(
    model: PreTrainedModel, short: dict[str, Any], longest: dict[str, Any], *, half: bool
) -> tuple[float, float, int]:
    """Bytes that autograd keeps of the pass `longest`, counted on `short`, a single text: those that do not grow with
    the text, such as weights in another type, and those that do; and those of its logits and their gradients.

    A tensor with a dimension as long as the text, or as its labels, grows with it; one with two, as the weights of
    attention, with its square.
    """
    rows, tokens = short["input_ids"].shape
    labels = kept_labels(short)
    saved: WeakSet[_Saved] = WeakSet()  # of which those of branches without a gradient go at once

    def save(tensor: torch.Tensor) -> _Saved:
        saved.add(one := _Saved(tensor))
        return one

    training = model.training
    device = model.device
    with (
        torch.random.fork_rng(),
        torch.autograd.graph.saved_tensors_hooks(save, lambda one: one.tensor),
        torch.autocast(device.type, torch.bfloat16, enabled=half),
        losses_wanted(labels.to(device), 1.0) as wanted,
    ):
        logits = forward(model.train(), on_device(short, device))
    model.train(training)
    more = longest["input_ids"].numel() / (rows * tokens)
    squares = _squares(longest) / _squares(short)
    fixed = growing = 0.0
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept = {one.tensor.untyped_storage().data_ptr(): one.tensor for one in saved}
    for tensor in (tensor for place, tensor in kept.items() if place not in weights):
        size, shape = tensor.untyped_storage().nbytes(), tensor.shape
        of_a_label = shape[-1:] == logits.shape[-1:] or labels.shape[1] in shape
        times = 1 if of_a_label else shape.count(tokens)
        fixed += size if not times else 0
        growing += size * (0, more, squares)[min(times, 2)]
    columns = len(longest["input_ids"]) * len(longest["logits_to_keep"])
    if wanted.given:
        outputs = len(model.get_output_embeddings().weight)
        return fixed, growing, 2 * 4 * min(columns * outputs, logits_at_once(device))
    return fixed, growing, 3 * 4 * columns * logits.shape[-1]


@dataclass(frozen=True, eq=False)
class _Saved:
    tensor: torch.Tensor


def _squares(batch: dict[str, Any]) -> int:
    rows, tokens = batch["input_ids"].shape
    return sum(length**2 for length in batch.get("sample_lengths", [tokens] * rows))


def _unlike_a_layer(text: Encoded) -> tuple[bool, bool, int]:
    """Sorts short texts first, but for lengths that may be the size of a layer or a number of heads."""
    return len(text) % 8 == 0, len(text) < 64, len(text)
