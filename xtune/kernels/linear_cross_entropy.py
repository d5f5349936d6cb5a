"""The output layer and the loss in one, some rows at a time, so that all logits are never there at once.

Each loss depends on one row of hidden states alone, so its gradient there, W^T (softmax(W h) - one_hot(target)), is
worked out in the forward pass while the logits are at hand, and the backward pass only scales it. `plain_losses` is
what it must equal.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from xtune.kernels import native
from xtune.kernels.rows import computing_dtype, exactly, row_ranges

_LOGITS = 2**24
"""Logits at once on a CPU: 64 MiB in float32. Fewer rows multiply slower, more leave the cache."""
_LOGITS_GPU = 2**27


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(weight @ h)[target] of each row: float32 [rows].

    hidden [rows, features]; weight [outputs, features], frozen or trained; targets int64 [rows]
    """
    hidden = hidden.to(computing_dtype(hidden))
    with torch.autocast(hidden.device.type, enabled=False):
        if torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad):
            return _LinearCrossEntropy.apply(hidden, weight, targets)
        return _losses(hidden, weight, targets)


def logits_at_once(device: torch.device) -> int:
    """How many are there at a time, at most."""
    return _LOGITS_GPU if device.type == "cuda" else _LOGITS


def plain_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The same in plain PyTorch."""
    return cross_entropy(exactly(linear(hidden, weight)), targets, reduction="none")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets):
        if weight.requires_grad:  # its gradient needs what comes back for each row
            ctx.save_for_backward(hidden, weight, targets)
            return _losses(hidden, weight, targets)
        losses, at_rows = hidden.new_empty(len(hidden), dtype=torch.float32), torch.empty_like(hidden)
        compute = weight.to(hidden.dtype)
        for rows in _chunks(hidden, weight):
            losses[rows], at_logits = _softmax_gradient(hidden[rows], compute, targets[rows])
            torch.mm(at_logits, compute, out=at_rows[rows])
        ctx.save_for_backward(at_rows)
        return losses

    @staticmethod
    def backward(ctx, gradient):
        if len(ctx.saved_tensors) == 1:
            (at_rows,) = ctx.saved_tensors
            return at_rows * gradient[:, None].to(at_rows.dtype), None, None
        hidden, weight, targets = ctx.saved_tensors
        compute = weight.to(hidden.dtype)
        at_rows = torch.empty_like(hidden)
        at_weight = torch.zeros_like(weight)
        for rows in _chunks(hidden, weight):
            _, at_logits = _softmax_gradient(hidden[rows], compute, targets[rows])
            at_logits *= gradient[rows, None].to(at_logits.dtype)
            torch.mm(at_logits, compute, out=at_rows[rows])
            if at_weight.dtype == at_logits.dtype:
                at_weight.addmm_(at_logits.t(), hidden[rows])
            else:
                at_weight += at_logits.t() @ hidden[rows]
        return at_rows, at_weight, None


def _losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    losses, compute = hidden.new_empty(len(hidden), dtype=torch.float32), weight.to(hidden.dtype)
    for rows in _chunks(hidden, weight):
        losses[rows] = plain_losses(hidden[rows], compute, targets[rows])
    return losses


def _chunks(hidden: Tensor, weight: Tensor):
    return row_ranges(len(hidden), max(1, logits_at_once(hidden.device) // len(weight)))


@lru_cache(maxsize=1)
def _room(outputs: int) -> Tensor:
    """For the logits of some rows, float32 [rows, outputs] on the CPU. It is kept: memory of this size is new at each
    time it is asked for, and is cleared page by page."""
    return torch.empty(max(1, _LOGITS // outputs), outputs)


def _softmax_gradient(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The losses, float32 [rows], and their gradient at the logits, in hidden's dtype [rows, outputs]."""
    at = torch.arange(len(hidden), device=hidden.device)
    if hidden.dtype == torch.float32 and not hidden.is_cuda:
        logits = torch.mm(hidden, weight.t(), out=_room(len(weight))[: len(hidden)])
        if native.fits(logits):
            losses = logits.new_empty(len(logits))
            native.call("softmax_gradient", logits, targets, losses, *logits.shape)
            return losses, logits
        torch.softmax(logits, dim=1, out=logits)
        shares = logits[at, targets]
        losses = shares.log().neg_()
        if (lost := shares < 1e-30).any():  # below what float32 holds to the last digit
            losses[lost] = plain_losses(hidden[lost], weight, targets[lost])
    else:
        exact = torch.log_softmax(linear(hidden, weight), dim=1, dtype=torch.float32)
        losses = -exact[at, targets]
        logits = exact.exp_().to(hidden.dtype)
    logits[at, targets] -= 1
    return losses, logits
