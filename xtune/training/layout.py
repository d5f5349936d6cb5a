"""Texts to the tensors of a forward pass, as a run lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from xtune.data.batches.collate import arrange, tensors
from xtune.data.encoding.encode import NO_LABEL, Encoded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Layout:
    """Packed into one row, or padded to the longest.

    processes, process   of those that share the tokens of a row: how many, and which this is
    """

    packing: bool
    pad_id: int
    processes: int = 1
    process: int = 0

    def collate(self, texts: Sequence[Encoded]) -> dict[str, Any]:
        """The tensors of these texts (xtune.data.batches.collate), or of this process's stretch of their row."""
        return tensors(self.arrange(texts))

    def arrange(self, texts: Sequence[Encoded]) -> dict[str, Any]:
        """The same as arrays."""
        if self.processes == 1:
            return arrange(texts, packing=self.packing, pad_id=self.pad_id)
        if missing := -sum(map(len, texts)) % self.processes:
            ids = np.full(missing, self.pad_id, np.int32)
            texts = [*texts, Encoded(ids, ids * 0 + NO_LABEL)]
        return _stretch(arrange(texts, packing=True, pad_id=self.pad_id), self.process, self.processes)

    def empty(self, texts: Sequence[Encoded]) -> dict[str, Any]:
        """A pass in which nothing is learnt, so that all processes have as many."""
        ids = texts[0].input_ids[:2]
        return self.collate([Encoded(ids, ids * 0 + NO_LABEL)])


def _stretch(batch: dict[str, Any], number: int, of: int) -> dict[str, Any]:
    length = batch["input_ids"].shape[1] // of
    start, end = number * length, (number + 1) * length
    kept = batch["logits_to_keep"]
    return {
        "input_ids": batch["input_ids"][:, start:end],
        "labels": batch["labels"][:, start : end + 1],  # the last token here predicts the first of the next
        "position_ids": batch["position_ids"][:, start:end],
        "sample_lengths": batch["sample_lengths"],
        "logits_to_keep": kept[(kept >= start) & (kept < end)] - start,
        "start": start,
        "sequence_processes": of,
    }


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch, its tensors on a device."""
    import torch

    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()
    }
