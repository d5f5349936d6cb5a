"""Choosing the next token of a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a row is written.

    max_tokens    after which it ends at the latest
    temperature   0: the likeliest token each time; above: a draw from softmax(logits / temperature)
    top_p         draw from the fewest tokens that have this much of the probability together
    seed          of the row's own random numbers; None: others each time
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


def choose(logits: Tensor, sampling: Sampling, random: np.random.Generator) -> int:
    """A token by its logits, float32 [vocabulary]. Takes one random number, whichever others are in the batch."""
    import torch

    if sampling.temperature == 0:
        return int(logits.argmax())
    # less the largest first, so that a very low temperature does not overflow
    probabilities = ((logits - logits.max()) / sampling.temperature).softmax(-1, dtype=torch.float64)
    order = None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= max(sampling.top_p, 1e-9)] = 0
    cumulated = probabilities.cumsum(-1)
    # a number in (0, sum], so that no token without probability is drawn
    place = int(torch.searchsorted(cumulated, (1 - random.random()) * cumulated[-1]))
    return place if order is None else int(order[place])
