"""How likely a model finds the answers in a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from xtune.data.encoding.encode import NO_LABEL
from xtune.model.fused import losses_wanted
from xtune.model.sequence import sequence_group

INPUTS = (
    "input_ids",
    "position_ids",
    "sample_lengths",
    "sequence_processes",
    "attention_mask",
    "logits_to_keep",
)
"""Of a batch, what the model is given."""


def forward(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model's outputs where a label is predicted, float32: [rows, columns kept, outputs]."""
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    return model(**inputs, use_cache=False).logits.float()


def label_losses(model: torch.nn.Module, batch: dict[str, Any], temperature: float = 1.0) -> torch.Tensor:
    """-log p of each label, its logits divided by the temperature, 0 where there is none: float32 [rows * columns
    kept]."""
    targets = kept_labels(batch)
    with losses_wanted(targets, temperature) as wanted:
        outputs = forward(model, batch)
    if wanted.given:
        return outputs.flatten()
    return cross_entropy(
        (outputs / temperature).flatten(0, 1), targets.flatten(), ignore_index=NO_LABEL, reduction="none"
    )


def kept_labels(batch: dict[str, Any]) -> torch.Tensor:
    """What each kept column predicts, int64 [rows, columns kept]; NO_LABEL where there is no loss."""
    return batch["labels"][:, 1:][:, batch["logits_to_keep"]]


def answer_log_probs(
    model: torch.nn.Module, batch: dict[str, Any], texts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of the labels of each text, summed, float32 [texts], and their number, int64 [texts].

    texts   number of texts in the batch; 0 for a pass without any
    """
    losses = label_losses(model, batch)
    numbers = text_numbers(batch).flatten()
    learnt = kept_labels(batch).flatten() != NO_LABEL
    log_probs = losses.new_zeros(max(texts, 1)).index_add(0, numbers, -losses)
    counts = numbers.new_zeros(max(texts, 1)).index_add(0, numbers, learnt.long())
    return whole(log_probs, batch)[:texts], whole(counts, batch)[:texts]


def whole(part: torch.Tensor, batch: dict[str, Any]) -> torch.Tensor:
    """Where several processes share the tokens of a row: the sum of their parts, with the gradient of this one's."""
    processes = batch.get("sequence_processes", 1)
    if processes == 1:
        return part
    total = part.detach().clone()
    torch.distributed.all_reduce(total, group=sequence_group(processes))
    return part + (total - part.detach())


def text_numbers(batch: dict[str, Any]) -> torch.Tensor:
    """The text that each kept column belongs to: int64 [rows, columns kept]."""
    kept = batch["logits_to_keep"]
    if "sample_lengths" in batch:
        lengths = torch.tensor(batch["sample_lengths"], device=kept.device)
        texts = torch.arange(len(lengths), device=kept.device)
        numbers = torch.repeat_interleave(texts, lengths, output_size=sum(batch["sample_lengths"]))
        return numbers[kept + batch.get("start", 0) + 1][None]
    rows = torch.arange(len(batch["labels"]), device=kept.device)
    return rows[:, None].expand(-1, len(kept))
