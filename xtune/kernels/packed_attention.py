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

from xtune.kernels.alibi import alibi_bias


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    dropout: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Attention within each sample.

    query [1, heads, tokens, dimension]; key and value [1, key-value heads, tokens, dimension], where the
    heads share key-value heads in order; lengths sum to tokens; slopes [heads] of linear biases (ALiBi).
    Returns [1, heads, tokens, dimension].
    """
    shared = query.shape[1] != key.shape[1]
    outputs = []
    for q, k, v in zip(*(tensor.split(list(lengths), dim=2) for tensor in (query, key, value)), strict=True):
        bias = None if slopes is None else alibi_bias(slopes, q.shape[2], 0, q.dtype)[None]
        outputs.append(
            scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=bias,
                is_causal=bias is None,
                scale=scale,
                dropout_p=dropout,
                enable_gqa=shared,
            )
        )
    return torch.cat(outputs, dim=2)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    slopes: Tensor | None = None,
) -> Tensor:
    """The same by a mask over the whole row; shapes as in packed_attention."""
    sample = torch.repeat_interleave(torch.tensor(list(lengths), device=query.device))
    allowed = (sample[:, None] == sample[None, :]).tril()
    if slopes is not None:
        bias = alibi_bias(slopes, len(sample), 0, query.dtype)
        allowed = bias.masked_fill(~allowed, torch.finfo(query.dtype).min)[None]
    shared = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale, enable_gqa=shared)
