"""Causal attention over samples packed into one row, none seeing another.

`packed_attention` runs sample by sample, so its cost is the sum of the squared lengths, not the square of
the sum. `masked_attention` is the plain PyTorch that it must equal.

    lengths [3, 2]     a a a b b
                    a  x . . . .
                    a  x x . . .
                    a  x x x . .
                    b  . . . x .
                    b  . . . x x
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], *, scale: float, dropout: float = 0.0
) -> Tensor:
    """Attention within each sample.

    query [1, heads, tokens, dimension]; key and value [1, key-value heads, tokens, dimension], where the
    heads share key-value heads in order; lengths sum to tokens. Returns [1, heads, tokens, dimension].
    """
    shared = query.shape[1] != key.shape[1]
    outputs = [
        scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=shared
        )
        for q, k, v in zip(
            *(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True
        )
    ]
    return torch.cat(outputs, dim=2)


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], *, scale: float
) -> Tensor:
    """The same by a mask over the whole row; shapes as in packed_attention."""
    sample = torch.repeat_interleave(torch.tensor(list(lengths), device=query.device))
    allowed = (sample[:, None] == sample[None, :]).tril()
    shared = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale, enable_gqa=shared)
