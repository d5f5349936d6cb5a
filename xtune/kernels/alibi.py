"""Attention with linear biases (Press et al. 2021, https://arxiv.org/abs/2108.12409)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alibi_slopes(heads: int, device: torch.device | str = "cpu") -> Tensor:
    """One slope a head, float32 [heads]: 2^(-8/n), 2^(-16/n), … for a power of two n. For another number, those
    of the next smaller power, then every second one of the next larger."""
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(slopes, device=device)


def alibi_bias(slopes: Tensor, tokens: int, seen: int, dtype: torch.dtype) -> Tensor:
    """The mask to add to causal attention scores: slope · (key - query), and the lowest number for what comes later.

    slopes [heads]; tokens: new ones, after `seen` in the cache. Returns [heads, tokens, seen + tokens].
    """
    keys = torch.arange(seen + tokens, device=slopes.device)
    distance = keys[None, :] - keys[seen:, None]
    bias = (slopes[:, None, None] * distance).to(dtype)
    return bias.masked_fill(distance > 0, torch.finfo(dtype).min)
