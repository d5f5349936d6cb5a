"""Samples to the tensors of one forward pass.

    packed      one row, no padding; positions start again at each sample, and the lengths tell attention
                where one ends:      ids      a a a b b c c c c
                                     position 0 1 2 0 1 0 1 2 3
    padded      a row a sample, padded on the right

Labels are -100 where there is no loss and at each sample's first token, which nothing before it predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xtune.data.encoding.encode import NO_LABEL, Encoded


def collate(samples: Sequence[Encoded], *, packing: bool, pad_id: int) -> dict[str, Any]:
    """What `arrange` makes, as tensors."""
    return tensors(arrange(samples, packing=packing, pad_id=pad_id))


def tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch whose arrays are tensors."""
    import torch

    return {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


def arrange(samples: Sequence[Encoded], *, packing: bool, pad_id: int) -> dict[str, Any]:
    """The keyword arguments of a causal language model's forward pass, and its labels.

    input_ids, labels, position_ids: int64 [rows, tokens]; attention_mask (padded only): int64 [rows, tokens];
    sample_lengths (packed only): list of int; logits_to_keep: int64 [columns], the columns from which any row
    predicts a label, so that the output layer works on no other.
    """
    labels = [_labels(sample) for sample in samples]
    positions = [np.arange(len(sample)) for sample in samples]
    if packing:
        batch: dict[str, Any] = {
            "input_ids": _row([sample.input_ids for sample in samples]),
            "labels": _row(labels),
            "position_ids": _row(positions),
            "sample_lengths": [len(sample) for sample in samples],
        }
    else:
        batch = {
            "input_ids": _padded([sample.input_ids for sample in samples], pad_id),
            "labels": _padded(labels, NO_LABEL),
            "position_ids": _padded(positions, 0),
            "attention_mask": _padded([np.ones(len(sample)) for sample in samples], 0),
        }
    batch["logits_to_keep"] = np.flatnonzero((batch["labels"][:, 1:] != NO_LABEL).any(0))
    return batch


def _labels(sample: Encoded) -> np.ndarray:
    labels = np.array(sample.labels)
    labels[0] = NO_LABEL
    return labels


def _row(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays).astype(np.int64)[None]


def _padded(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
    rows = np.full((len(arrays), max(map(len, arrays))), fill, dtype=np.int64)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows
