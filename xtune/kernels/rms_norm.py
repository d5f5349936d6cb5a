"""Root-mean-square normalisation (Zhang and Sennrich 2019), y = w x / sqrt(mean(x²) + ε), in few passes over memory.

`plain_rms_norm` is what it must equal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xtune.kernels.compiled import compiled
from xtune.kernels.rows import cached_rows, exactly


def rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """states [..., features], weight [features] -> [..., features] in the states' type; computed in float32."""
    return _RmsNorm.apply(states.reshape(-1, states.shape[-1]), weight, epsilon).view(states.shape)


def plain_rms_norm(states: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """The same in plain PyTorch."""
    exact = exactly(states)
    exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * exact.to(states.dtype)


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
