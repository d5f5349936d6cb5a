"""A model in memory with adapters beside it, unmerged: what a merged model is compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from xtune.convert.adapted import Adapted, begin_anew
from xtune.model.added_tokens import grow_embeddings
from xtune.model.reward import add_head


class Beside(nn.Module):
    """A layer of the base, and PEFT's layers around it: gives y + sum_i weight_i (y_i - y)."""

    def __init__(self, base: nn.Module, layers: Mapping[int, nn.Module], weights: tuple[float, ...]):
        super().__init__()
        self.base = base
        self.weights = [weights[number] for number in layers]
        self.layers = nn.ModuleList(layers.values())
        self.alone = weights == (1.0,)
        self.enabled = True
        for layer in layers.values():
            _put_base(layer, copy.deepcopy(base) if layer.begun else base)
            if layer.begun:
                begin_anew(layer)

    def forward(self, *inputs, **named) -> torch.Tensor:
        """As the base's layer."""
        if not self.enabled:
            return self.base(*inputs, **named)
        if self.alone:
            return self.layers[0](*inputs, **named)
        plain = self.base(*inputs, **named)
        each = (layer(*inputs, **named) - plain for layer in self.layers)
        return plain + sum(weight * one for weight, one in zip(self.weights, each, strict=True))

    def __getattr__(self, name: str):
        """Models ask layers for their weights, and what else they know."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)


def _put_base(layer: nn.Module, base: nn.Module) -> None:
    """Let PEFT's layer stand around another one of the base's."""
    if hasattr(layer, "base_layer"):
        layer.base_layer = base
    elif hasattr(layer, "token_adapter"):
        layer.token_adapter.base_layer = base
    else:
        layer.original_module = base


def prepare_base(model: nn.Module, adapted: Adapted, *, reward: bool) -> None:
    """Give a loaded base what the adapters bring room for: rows of added tokens, a head, embeddings apart."""
    from xtune.convert.adapted import untie

    if adapted.token_ids:
        grow_embeddings(model, adapted.token_ids)
    if reward:
        add_head(model, seed=0)
    untie(model)


def put_beside(model: nn.Module, adapted: Adapted) -> None:
    """Put the adapters beside the layers of a model, in its type and on its device. `adapted` is used up."""
    weights = dict(model.named_parameters())
    for name in adapted.replaced:
        weights[name].data = adapted.sum_of_replaced(name, weights[name].data)
    for name, held in adapted.layers.items():
        base = model.get_submodule(name)
        model.set_submodule(name, Beside(base, held, adapted.weights).to(model.device))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The model as if nothing stood beside its layers."""
    beside = [module for module in model.modules() if isinstance(module, Beside)]
    for module in beside:
        module.enabled = False
    try:
        yield
    finally:
        for module in beside:
            module.enabled = True
