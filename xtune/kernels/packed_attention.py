"""Causal attention over samples packed into one row, none seeing another.

`packed_attention` costs the sum of the squared lengths, not the square of the sum: on a GPU by flash attention for
varying lengths, on a CPU by a kernel in C, elsewhere sample by sample. `masked_attention` is the plain PyTorch that it
must equal.

    lengths [3, 2]     a a a b b
                    a  x . . . .
                    a  x x . . .
                    a  x x x . .
                    b  . . . x .
                    b  . . . x x
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from inspect import signature
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from xtune.kernels import native
from xtune.kernels.alibi import alibi_bias

_QUERIES = 512  # KEYS in c/attention.c


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
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    if half and slopes is None and not dropout and (varlen := _varlen()):
        return varlen(query, key, value, lengths, scale)
    if slopes is None and not dropout and query.shape[3] % 16 == 0 and native.fits(query, key, value):
        states = (each[0].transpose(0, 1).contiguous() for each in (query, key, value))
        return _Attention.apply(*states, tuple(lengths), scale).transpose(0, 1)[None]
    return sample_by_sample(query, key, value, lengths, scale=scale, dropout=dropout, slopes=slopes)


def sample_by_sample(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    *,
    scale: float,
    dropout: float = 0.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """The same by PyTorch's attention, of one sample after the other."""
    outputs, shared = [], query.shape[1] != key.shape[1]
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


class _Attention(torch.autograd.Function):
    """By kernels in C: query [tokens, heads, dimension] and so on."""

    @staticmethod
    def forward(ctx, query, key, value, lengths, scale):
        tokens, heads, dimension = query.shape
        output, log_sums = torch.empty_like(query), query.new_empty(heads, tokens)
        ctx.starts, chunks = _chunks(lengths)
        ctx.sizes = tokens, heads, key.shape[1], dimension, scale
        states = query, key, value, output, log_sums
        native.call("attention", *states, chunks, len(chunks), *ctx.sizes)
        ctx.save_for_backward(*states)
        return output

    @staticmethod
    def backward(ctx, gradient):
        query, key, *_ = states = ctx.saved_tensors
        heads, shared = query.shape[1], key.shape[1]
        samples = len(ctx.starts) - 1
        # A thread that takes all heads of a key sums their gradients, where there are enough of those for the threads.
        parts = shared if samples * shared >= 4 * torch.get_num_threads() else heads
        at_shared = [query.new_empty(len(key), parts, key.shape[2]) for _ in range(2)]
        at_query = torch.empty_like(query)
        native.call(
            "attention_backward",
            gradient.contiguous(),
            *states,
            at_query,
            *at_shared,
            ctx.starts,
            samples,
            parts,
            *ctx.sizes,
        )
        if parts > shared:
            at_shared = [each.view(len(key), shared, -1, key.shape[2]).sum(2) for each in at_shared]
        return at_query, *at_shared, None, None


@lru_cache(maxsize=4)
def _chunks(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Where samples begin and the last one ends, and the queries that a thread takes at a time, int64 [chunks, 3]:
    where their sample starts, the first and the end; those with many keys to see come first."""
    starts = [0, *accumulate(lengths)]
    chunks = [
        (start, first, min(first + _QUERIES, end))
        for start, end in pairwise(starts)
        for first in range(start, end, _QUERIES)
    ]
    chunks.sort(key=lambda chunk: chunk[0] - chunk[2])
    return torch.tensor(starts), torch.tensor(chunks)


@cache
def _varlen() -> Callable[..., Tensor] | None:
    """PyTorch's attention over samples of varying lengths, since 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = signature(varlen_attn).parameters

    def attend(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        options = {"enable_gqa": True} if groups > 1 and "enable_gqa" in known else {}
        if groups > 1 and not options:
            key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
        starts, longest = _starts(tuple(lengths), query.device), max(lengths)
        query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
        output = varlen_attn(
            query, key, value, starts, starts, longest, longest, scale=scale, window_size=(-1, 0), **options
        )
        return output.transpose(0, 1)[None]

    return attend


@lru_cache(maxsize=4)
def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where samples begin and the last one ends, int32; the same for all layers of a pass."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


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
