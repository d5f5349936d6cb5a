"""Rotary position embeddings (Su et al. 2021) without concatenating halves.

`plain_rotary` is what it must equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xtune.kernels import native
from xtune.kernels.compiled import compiled
from xtune.kernels.rows import cached_rows


def rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Each pair (i, i + half) of a head's dimensions turned by the angle of its token and of dimension i.

    query and key [tokens, heads, dimensions], each with its number of heads; cos and sin [tokens, dimensions], both
    halves alike
    """
    return _Rotary.apply(query, key, cos, sin)


def plain_rotary(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch."""
    turned = []
    for states in (query, key):
        first, second = states.chunk(2, dim=-1)
        turned.append(states * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None])
    return turned[0], turned[1]


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turned(query, key, cos, sin, 1)

    @staticmethod
    def backward(ctx, at_query, at_key):
        return *_turned(at_query, at_key, *ctx.saved_tensors, -1), None, None


def _turned(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, way: int) -> tuple[Tensor, Tensor]:
    """way: 1, or -1 to turn back"""
    if query.is_cuda:
        return compiled(plain_rotary)(query, key, cos, sin * way)
    query, key, cos, sin = (one.contiguous() for one in (query, key, cos, sin))
    outputs = torch.empty_like(query), torch.empty_like(key)
    half = query.shape[-1] // 2
    for states, output in zip((query, key), outputs, strict=True):
        if native.fits(states, cos, sin):
            native.call("rotary", states, output, cos, sin, way, *states.shape[:2], half)
            continue
        for rows in cached_rows(states):
            part, turned, by = states[rows], output[rows], sin[rows, None, :half] * way
            torch.mul(part, cos[rows, None], out=turned)
            turned[..., :half].addcmul_(part[..., half:], by, value=-1)
            turned[..., half:].addcmul_(part[..., :half], by)
    return outputs
