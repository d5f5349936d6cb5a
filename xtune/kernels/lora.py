"""Linear layers with low-rank adapters, y = W x + b + s B A x, that keep little and go over memory seldom.

Of each layer only the input and A x are kept for the backward pass (of an input that a norm made, what it was made of,
which the norm keeps anyway); the adapter's part is added into the product with W while that is in the cache; layers
with the same input share the products with their As and one gradient. The weights W stay as they are, so they may be
4-bit ones that are made dense for as long as a product takes.

`plain_linear` and `plain_mlp` are what they must equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from xtune.kernels import native
from xtune.kernels.rms_norm import again, made_of
from xtune.kernels.rows import computing_dtype, exactly, multiplied_rows, some
from xtune.kernels.swiglu import swiglu_backward, swiglu_forward


@dataclass(frozen=True)
class LoraLinear:
    """A frozen linear layer with its adapter, or without.

    dense   gives the weights, [outputs, inputs], in whatever type
    bias    [outputs], or None
    a, b    [rank, inputs] and [outputs, rank], or None
    scale   s
    """

    dense: Callable[[], Tensor]
    bias: Tensor | None = None
    a: Tensor | None = None
    b: Tensor | None = None
    scale: float = 1.0


def lora_linears(states: Tensor, layers: Sequence[LoraLinear]) -> tuple[Tensor, ...]:
    """What each layer makes of the same states: [..., inputs] -> [..., outputs]."""
    return _apply(_Linears, states, layers)


def lora_mlp(states: Tensor, gate: LoraLinear, up: LoraLinear, down: LoraLinear) -> Tensor:
    """down(silu(gate(states)) * up(states)): [..., features] -> [..., features]."""
    return _apply(_Mlp, states, (gate, up, down))[0]


def plain_linear(states: Tensor, layer: LoraLinear) -> Tensor:
    """One layer in plain PyTorch."""
    output = linear(states, layer.dense(), layer.bias)
    if layer.a is None:
        return output
    a, b = (factor.to(states.dtype) for factor in (layer.a, layer.b))
    return output + linear(linear(states, a), b) * layer.scale


def plain_mlp(states: Tensor, gate: LoraLinear, up: LoraLinear, down: LoraLinear) -> Tensor:
    """The same in plain PyTorch."""
    return plain_linear(silu(plain_linear(states, gate)) * plain_linear(states, up), down)


def _apply(function, states: Tensor, layers: Sequence[LoraLinear]) -> tuple[Tensor, ...]:
    dtype = computing_dtype(states)
    with torch.autocast(states.device.type, enabled=False):
        rows = states.to(dtype).reshape(-1, states.shape[-1])
        factors = (factor for one in layers for factor in (one.a, one.b))
        of = made_of(states) if states.dtype == dtype else None
        outputs = function.apply(rows, of, tuple(layers), *factors)
    return tuple(output.view(*states.shape[:-1], output.shape[-1]) for output in outputs)


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, of, layers, *_factors):
        factors = _Factors(layers, states.dtype)
        products = _Products(factors, states)
        for rows in multiplied_rows(states):
            products.compute(some(states, rows), rows)
        ctx.factors = factors
        ctx.save_for_backward(products.low, *(of or (states,)))
        return products.outputs

    @staticmethod
    def backward(ctx, *gradients):
        low, *of = ctx.saved_tensors
        states = again(*of) if len(of) > 1 else of[0]
        sums = _Sums(ctx.factors)
        at_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for rows in multiplied_rows(states):
            parts = [some(gradient, rows) for gradient in gradients]
            at_low = sums.backward(parts, some(low, rows), some(at_states, rows))
            sums.add_at_a(at_low, some(states, rows))
        return at_states, None, None, *sums.at_factors()


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, of, layers, *_factors):
        factors = _Factors(layers[:2], states.dtype), _Factors(layers[2:], states.dtype)
        into, out_of = (_Products(each, states) for each in factors)
        gate, up = into.outputs
        for rows in multiplied_rows(states):
            into.compute(some(states, rows), rows)
            out_of.compute(swiglu_forward(some(gate, rows), some(up, rows)), rows)
        ctx.factors = factors
        ctx.save_for_backward(gate, up, into.low, out_of.low, *(of or (states,)))
        return out_of.outputs

    @staticmethod
    def backward(ctx, gradient):
        gate, up, low, low_out, *of = ctx.saved_tensors
        states = again(*of) if len(of) > 1 else of[0]
        into, out_of = map(_Sums, ctx.factors)
        at_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for rows in multiplied_rows(states):
            at_product = torch.empty_like(some(up, rows))
            at_low = out_of.backward([some(gradient, rows)], some(low_out, rows), at_product)
            product, *parts = swiglu_backward(at_product, some(gate, rows), some(up, rows))
            out_of.add_at_a(at_low, product)
            at_low = into.backward(parts, some(low, rows), some(at_states, rows))
            into.add_at_a(at_low, some(states, rows))
        return at_states, None, None, *into.at_factors(), *out_of.at_factors()


class _Factors:
    """Of layers with the same input: their adapters' factors in the type that is computed in, kept from the forward to
    the backward pass. Dense weights are not kept: they may be made for a pass only."""

    def __init__(self, layers: Sequence[LoraLinear], dtype: torch.dtype):
        self.layers, self.dtype = layers, dtype
        ranks = [0 if layer.a is None else len(layer.a) for layer in layers]
        self.rank = sum(ranks)
        self.at = [slice(sum(ranks[:i]), sum(ranks[: i + 1])) for i in range(len(layers))]
        adapted = [layer.a for layer in layers if layer.a is not None]
        self.a = (adapted[0] if len(adapted) == 1 else torch.cat(adapted)).to(dtype) if adapted else None
        self.b = [None if layer.b is None else layer.b.to(dtype) for layer in layers]

    def dense(self) -> list[Tensor]:
        """The weights of each layer, [outputs, inputs]."""
        return [layer.dense().to(self.dtype) for layer in self.layers]


class _Products:
    """What the layers make of their input, some rows at a time.

    low       A x of all layers, [rows, sum of ranks]
    outputs   of each layer, [rows, outputs]
    """

    def __init__(self, factors: _Factors, states: Tensor):
        self.factors, self.weights = factors, factors.dense()
        self.low = states.new_empty(len(states), factors.rank)
        self.outputs = tuple(states.new_empty(len(states), len(weight)) for weight in self.weights)

    def compute(self, states: Tensor, rows: slice) -> None:
        """Fill in these rows, from their input."""
        of, low = self.factors, some(self.low, rows)
        if of.rank:
            torch.mm(states, of.a.t(), out=low)
        for layer, b, at, weight, output in zip(
            of.layers, of.b, of.at, self.weights, self.outputs, strict=True
        ):
            part = some(output, rows)
            if layer.bias is None:
                torch.mm(states, weight.t(), out=part)
            else:
                torch.addmm(layer.bias.to(of.dtype), states, weight.t(), out=part)
            if b is not None:
                part.addmm_(low[:, at], b.t(), alpha=layer.scale)


class _Sums:
    """The backward pass of products, and the gradients at their factors, summed over the rows."""

    def __init__(self, factors: _Factors):
        self.factors, self.weights = factors, factors.dense()
        self.at_a: Tensor | None = None
        self.at_b: list[Tensor | None] = [None] * len(factors.layers)

    def backward(self, gradients: Sequence[Tensor], low: Tensor, at_states: Tensor | None) -> Tensor:
        """From the gradients at the outputs: adds to those at each b, writes those at the states, and returns those at
        `low`, of which `add_at_a` makes those at each a."""
        of = self.factors
        at_low = torch.empty_like(low)
        for i, gradient in enumerate(gradients):
            if of.b[i] is not None:
                at = of.at[i]
                at_b = _thin_backward(gradient, of.b[i], low[:, at], at_low[:, at], of.layers[i].scale)
                self.at_b[i] = at_b if self.at_b[i] is None else exactly(self.at_b[i]) + at_b
        if at_states is None:
            return at_low
        torch.mm(gradients[0], self.weights[0], out=at_states)
        for gradient, weight in zip(gradients[1:], self.weights[1:], strict=True):
            at_states.addmm_(gradient, weight)
        if of.rank:
            at_states.addmm_(at_low, of.a)
        return at_low

    def add_at_a(self, at_low: Tensor, states: Tensor) -> None:
        """Adds to the gradients at each a."""
        if self.factors.rank:
            self.at_a = _sum(self.at_a, at_low.t(), states)

    def at_factors(self) -> list[Tensor | None]:
        """The gradients at a and b of each layer in turn."""
        found: list[Tensor | None] = []
        for layer, at, at_b in zip(self.factors.layers, self.factors.at, self.at_b, strict=True):
            if layer.a is None:
                found += [None, None]
            else:
                found += [self.at_a[at].to(layer.a.dtype), at_b.to(layer.b.dtype)]
        return found


_THIN = 16, 32
"""Ranks for which the kernel in C is faster than two products."""


def _thin_backward(gradient: Tensor, b: Tensor, low: Tensor, at_low: Tensor, scale: float) -> Tensor:
    """Of scale * low @ b.t(): writes the gradient at low, [rows, rank], and returns that at b, [outputs, rank]."""
    if b.shape[1] in _THIN and native.fits(gradient, b, low, at_low):
        at_b, room = torch.empty_like(b), b.new_empty(torch.get_num_threads(), *b.shape)
        at = low.data_ptr(), at_low.data_ptr()  # their rows are those of several layers
        sizes = *gradient.shape, b.shape[1], low.stride(0)
        native.call("thin_backward", gradient.contiguous(), b.contiguous(), *at, at_b, room, *sizes, scale)
        return at_b
    torch.addmm(at_low, gradient, b, beta=0, alpha=scale, out=at_low)
    return (low.t() @ gradient).t() * scale


def _sum(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right, in float32 once there is more than one."""
    if total is None:
        return left @ right
    if total.dtype == right.dtype == torch.float32:
        return total.addmm_(left, right)
    return total.float() + left @ right
