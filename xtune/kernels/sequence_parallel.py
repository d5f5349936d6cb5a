"""Attention over a sequence whose tokens are spread over processes (Ulysses, Jacobs et al. 2023).

Each process has a stretch of the tokens for all heads. For attention they exchange, so that each has all tokens for a
part of the heads, and back:

    process 0   tokens 0 1, heads a b          process 0   tokens 0 1 2 3, head a
    process 1   tokens 2 3, heads a b    <->   process 1   tokens 0 1 2 3, head b
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import ProcessGroup


def all_tokens(heads: Tensor, group: ProcessGroup) -> Tensor:
    """[1, heads, tokens of this process, dimension] -> [1, heads / n, all tokens, dimension]; n processes in group."""
    return _Exchange.apply(heads, group, 1, 2)


def all_heads(tokens: Tensor, group: ProcessGroup) -> Tensor:
    """[1, heads / n, all tokens, dimension] -> [1, heads, tokens of this process, dimension]."""
    return _Exchange.apply(tokens, group, 2, 1)


class _Exchange(torch.autograd.Function):
    """Splits one dimension over the processes and joins another; backward does the opposite."""

    @staticmethod
    def forward(ctx, tensor, group, split, join):
        ctx.group, ctx.split, ctx.join = group, split, join
        return _exchange(tensor, group, split, join)

    @staticmethod
    def backward(ctx, gradient):
        return _exchange(gradient, ctx.group, ctx.join, ctx.split), None, None, None


def _exchange(tensor: Tensor, group: ProcessGroup, split: int, join: int) -> Tensor:
    parts = torch.stack(tensor.chunk(group.size(), dim=split))
    received = torch.empty_like(parts)
    torch.distributed.all_to_all_single(received, parts, group=group)
    return torch.cat(received.unbind(0), dim=join)
