"""Root-mean-square normalisation (Zhang and Sennrich 2019), y = w x / sqrt(mean(x²) + ε), in few passes over memory.

`plain_rms_norm` is what it must equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xtune.kernels import native
from xtune.kernels.compiled import compiled
from xtune.kernels.rows import cached_rows, exactly


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """states [..., features], weight [features] -> [..., features] in the states' type; computed in float32."""
    rows = states.reshape(-1, states.shape[-1]).contiguous()
    if not native.fits(rows, weight):
        return _RmsNorm.apply(rows, weight, epsilon).view(states.shape)
    output, inverse = _InC.apply(rows, weight, epsilon)
    output = output.view(states.shape)
    output.made_of = rows.detach(), weight.detach(), inverse
    return output


def made_of(states: Tensor) -> tuple[Tensor, ...] | None:
    """Of what rms_norm made these states, for functions that need them in the backward pass again: it is kept anyway,
    and `again` is quick. None where they are something else."""
    return getattr(states, "made_of", None)


def again(states: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    """What rms_norm made of them, [rows, features]."""
    output = torch.empty_like(states)
    native.call("scale_rows", states, weight, inverse, output, *states.shape)
    return output


def plain_rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The same in plain PyTorch."""
    exact = exactly(states)
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * exact.to(states.dtype)


class _InC(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, epsilon):
        output, inverse = torch.empty_like(states), states.new_empty(len(states), 1)
        native.call("rms_norm", states, weight, epsilon, output, inverse, *states.shape)
        ctx.save_for_backward(states, weight, inverse)
        ctx.mark_non_differentiable(inverse)
        return output, inverse

    @staticmethod
    def backward(ctx, gradient, _):
        states, weight, inverse = ctx.saved_tensors
        gradient, at_states = gradient.contiguous(), torch.empty_like(states)
        native.call("rms_norm_backward", gradient, states, weight, inverse, at_states, *states.shape)
        trained = ctx.needs_input_grad[1]
        return at_states, (gradient * states).mul_(inverse).sum(0) if trained else None, None


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, weight, epsilon):
        ctx.epsilon = epsilon
        if states.is_cuda:
            ctx.save_for_backward(states, weight)
            return compiled(plain_rms_norm)(states, weight, epsilon)
        output = torch.empty_like(states)
        inverse = torch.empty(len(states), 1)
        for rows in cached_rows(states):
            size = torch.linalg.vector_norm(states[rows], dim=1, keepdim=True, dtype=torch.float32)
            torch.rsqrt(size.square_().div_(states.shape[1]).add_(epsilon), out=inverse[rows])
            torch.mul(states[rows] * inverse[rows], weight, out=output[rows])
        ctx.save_for_backward(states, weight, inverse)
        return output

    @staticmethod
    def backward(ctx, gradient):
        states, weight, *inverse = ctx.saved_tensors
        trained = ctx.needs_input_grad[1]
        if states.is_cuda:
            at_states, at_weight = compiled(_backward)(gradient, states, weight, ctx.epsilon)
            return at_states, at_weight.to(weight.dtype) if trained else None, None
        at_states = torch.empty_like(states)
        at_weight = torch.zeros(states.shape[1])
        for rows in cached_rows(states):
            unit = states[rows] * inverse[0][rows]
            if trained:
                at_weight += (gradient[rows] * unit).sum(0)
            weighted = gradient[rows] * weight
            along = (weighted * unit).mean(1, keepdim=True)
            torch.mul(weighted.addcmul_(unit, along, value=-1), inverse[0][rows], out=at_states[rows])
        return at_states, at_weight.to(weight.dtype) if trained else None, None


def _backward(gradient: Tensor, states: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    exact = states.float()
    inverse = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    unit, g = exact * inverse, gradient.float()
    weighted = g * weight.float()
    along = (weighted * unit).mean(-1, keepdim=True)
    return ((weighted - unit * along) * inverse).to(states.dtype), (g * unit).sum(0)
