"""silu(gate) * up in few passes over memory, of which only the factors are kept for the backward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from xtune.kernels import native
from xtune.kernels.compiled import compiled
from xtune.kernels.rows import cached_rows


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up: [..., features]."""
    output = _Swiglu.apply(gate.flatten(0, -2).contiguous(), up.flatten(0, -2).contiguous())
    return output.view(up.shape)


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return swiglu_forward(gate, up)

    @staticmethod
    def backward(ctx, gradient):
        return swiglu_backward(gradient, *ctx.saved_tensors)[1:]


def swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up of [rows, features], outside of autograd."""
    if gate.is_cuda:
        return compiled(_swiglu)(gate, up)
    output = torch.empty_like(up)
    if native.fits(gate, up):
        native.call("swiglu", gate, up, output, up.numel())
        return output
    for rows in cached_rows(up):
        torch.mul(silu(gate[rows]), up[rows], out=output[rows])
    return output


def swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """silu(gate) * up once more, and the gradients at gate and up."""
    if gate.is_cuda:
        return compiled(_swiglu_backward)(gradient, gate, up)
    output, at_gate, at_up = torch.empty_like(up), torch.empty_like(gate), torch.empty_like(up)
    if native.fits(gradient, gate, up):
        native.call("swiglu_backward", gradient.contiguous(), gate, up, output, at_gate, at_up, up.numel())
        return output, at_gate, at_up
    for rows in cached_rows(up):
        active = silu(gate[rows])
        torch.mul(active, up[rows], out=output[rows])
        torch.mul(active, gradient[rows], out=at_up[rows])
        torch.mul(gradient[rows], up[rows], out=active)
        torch.ops.aten.silu_backward.grad_input(active, gate[rows], grad_input=at_gate[rows])
    return output, at_gate, at_up


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return (silu(gate.float()) * up.float()).to(up.dtype)


def _swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, u, g = gate.float(), up.float(), gradient.float()
    share = torch.sigmoid(x)
    active = x * share
    # silu'(x) = s + x s (1 - s), with s = sigmoid(x)
    at_gate, at_up = g * u * (share + active * (1 - share)), g * active
    return (active * u).to(up.dtype), at_gate.to(gate.dtype), at_up.to(up.dtype)
