"""The layers that adapters change, without the base's weights, which they are lent one layer at a time.

PEFT computes both: what a layer gives with the adapter beside it, and its merged weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import UsageError
from xtune.families.family import Layout, Options
from xtune.json_file import read_json_if_there
from xtune.model.adapters import is_reward_adapter, load_adapter, trained_tokens
from xtune.model.added_tokens import grow_embeddings
from xtune.model.health import meta_model
from xtune.model.reward import add_head

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

_BEGIN_ANEW = ("pissa", "olora", "loftq")
"""Adapters saved so stand beside W minus what they began as, which is computed of W again."""
_LEAVE_ALONE = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Adapted:
    """One adapter or several on a model, of which there are the names and shapes of weights, but not the weights.

    model      the base, with the rows for added tokens and the head that adapters bring, embeddings apart
    was_tied   whether input and output embeddings are one in the base
    weights    of the adapters in the sum
    layers     by the names of layers that they change: the adapter's number, and PEFT's layer
    replaced   weights of the base that adapters bring whole, by name: the adapter's number, and the tensor
    token_ids  of the tokens whose rows they hold
    """

    model: PreTrainedModel
    was_tied: bool
    weights: tuple[float, ...]
    layers: dict[str, dict[int, Module]]
    replaced: dict[str, dict[int, Tensor]]
    token_ids: frozenset[int]

    @property
    def plain(self) -> bool:
        """Whether it is one adapter as it was trained."""
        return self.weights == (1.0,)

    def changed(self) -> frozenset[str]:
        """Names of all weights that may come out of merging as others."""
        merged = (f"{name}.{kind}" for name, held in self.layers.items() for kind in _kinds(held))
        return frozenset(merged) | frozenset(self.replaced)

    def merged(self, name: str, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The changed weights of a layer, by name: W + sum_i weight_i (W_i - W), W_i merged with one adapter.

        read   gives a copy of a weight of the base by name, in the type to compute in

        Raises UsageError where PEFT cannot merge such an adapter.
        """
        held = self.layers[name]
        base = {kind: read(f"{name}.{kind}") for kind in _kinds(held)}
        sums = base if self.plain else {kind: tensor.clone() for kind, tensor in base.items()}
        for number, layer in held.items():
            own = {
                kind: self.replaced.get(f"{name}.{kind}", {})
                .get(number, tensor)
                .to(tensor.dtype, copy=not self.plain)
                for kind, tensor in base.items()
            }
            with lent(layer, own):
                one = _merge(layer, own)
            if self.plain:
                sums = one
            else:
                for kind, tensor in one.items():
                    sums[kind] += self.weights[number] * (tensor - base[kind])
        return {f"{name}.{kind}": tensor for kind, tensor in sums.items()}

    def sum_of_replaced(self, name: str, base: Tensor) -> Tensor:
        """A weight that adapters bring whole: W + sum_i weight_i (W_i - W), in the type of `base`."""
        held = {number: tensor.to(base) for number, tensor in self.replaced[name].items()}
        if self.plain:
            return held[0]
        return base + sum(self.weights[number] * (tensor - base) for number, tensor in held.items())


def read_adapters(
    base: Path, layout: Layout | None, options: Options, adapters: Sequence[Path], weights: Sequence[float]
) -> Adapted:
    """The adapters in some directories, each with its weight in the sum. Raises UsageError where one does not fit."""
    layers: dict[str, dict[int, Module]] = {}
    replaced: dict[str, dict[int, Tensor]] = {}
    model, tied = _without_weights(base, layout, options, adapters[0])
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    for number, directory in enumerate(adapters):
        other, _ = _without_weights(base, layout, options, directory)
        if {name: weight.shape for name, weight in other.named_parameters()} != shapes:
            raise UsageError(
                "The adapters bring different tokens, or heads: there is no model that has both.",
                where=f"{adapters[0]}, {directory}",
                fix="Merge adapters that were trained with the same model.added_tokens and kind of objective.",
            )
        own, brought = _layers(other, directory)
        for name, layer in own.items():
            layers.setdefault(name, {})[number] = layer
        for name, tensor in brought.items():
            replaced.setdefault(name, {})[number] = tensor
    ids = frozenset[int]().union(*map(trained_tokens, adapters))
    return Adapted(model, tied, tuple(weights), layers, replaced, ids)


def _without_weights(
    base: Path, layout: Layout | None, options: Options, adapter: Path
) -> tuple[PreTrainedModel, bool]:
    """The model that an adapter stands beside: its weights are of the right shape, and take no memory."""

    model = meta_model(base, layout, options)
    if ids := trained_tokens(adapter):
        grow_embeddings(model, ids)
    if is_reward_adapter(adapter):
        add_head(model, seed=0)
    tied = untie(model)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, _nothing(weight.shape))
    return model, tied


def _nothing(shape: torch.Size) -> torch.nn.Parameter:
    """Zeros that lie in one place. PEFT moves what it loads to where the base is, so "meta" would not do."""
    import torch

    return torch.nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)


def untie(model: PreTrainedModel) -> bool:
    """Give the output layer its own copy of weights that it shares with the embedding; whether it did.

    An adapter on one of the two would change the other as well when it is merged.
    """
    import torch

    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and output.weight is embedding.weight
    if tied:
        output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    return tied


def _layers(model: PreTrainedModel, directory: Path) -> tuple[dict[str, Module], dict[str, Tensor]]:
    """PEFT's layers by name, and the weights of the base that the adapter brings."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    begun = read_json_if_there(directory / "adapter_config.json").get("init_lora_weights")
    anew = isinstance(begun, str) and begun.startswith(_BEGIN_ANEW)
    if not anew and begun not in _LEAVE_ALONE:
        raise UsageError(
            f"The adapter began as init_lora_weights = {begun!r}, which changed the base by what is not saved.",
            where=str(directory / "adapter_config.json"),
            fix="Save it as plain LoRA where it was trained (PEFT's path_initial_model_for_weight_conversion).",
        )
    before = {id(weight) for weight in model.parameters()}
    names = {name: weight.shape for name, weight in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # seen to here
        adapted = load_adapter(model, directory, weightless=True).get_base_model()
    layers: dict[str, Module] = {}
    for name, module in adapted.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) and not any(
            name.startswith(f"{outer}.") for outer in layers
        ):
            layers[name] = module
            module.begun = begun if anew else None
    held = {name: base_of(layer) for name, layer in layers.items()}
    replaced = {}
    for name in names:
        owner, _, kind = name.rpartition(".")
        module = held.get(owner) or adapted.get_submodule(owner)
        if id(weight := getattr(module, kind)) not in before:
            replaced[name] = weight.detach()
    return layers, replaced


def base_of(layer: Module) -> Module:
    """The base's own layer within PEFT's."""
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer.original_module


def _kinds(held: Mapping[int, Module]) -> list[str]:
    """The weights of a layer that merging changes: "weight", "bias"."""
    from peft.tuners.lora import LoraLayer

    layers = list(held.values())
    own = [kind for kind, _ in base_of(layers[0]).named_parameters(recurse=False)]
    if all(isinstance(layer, LoraLayer) and not any(layer.lora_bias.values()) for layer in layers):
        return [kind for kind in own if kind == "weight"]
    return own


@contextmanager
def lent(layer: Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """PEFT's layer with the base's weights in it, which it may change; afterwards it is without them again."""
    import torch

    base = base_of(layer)
    own = dict(base.named_parameters(recurse=False))
    for kind, tensor in weights.items():
        setattr(base, kind, torch.nn.Parameter(tensor, requires_grad=False))
    try:
        yield
    finally:
        for kind, tensor in own.items():
            setattr(base, kind, tensor)
        for module in layer.modules():
            if hasattr(module, "merged_adapters"):
                module.merged_adapters.clear()
        layer.float()  # where the sum was made in float64


def _merge(layer: Module, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    try:
        layer.to(next((weight.dtype for weight in base.values()), None))
        if layer.begun:
            begin_anew(layer)
        if hasattr(layer, "unload_and_optionally_merge_module"):
            merged = layer.unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=None
            )
        else:
            layer.merge()
            merged = layer.get_base_layer()
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise UsageError(
            f"This adapter cannot be merged: {str(error).splitlines()[0]}",
            where=type(layer).__name__,
            fix="Use it beside its base model, or train a LoRA adapter.",
        ) from error
    return {kind: getattr(merged, kind).detach() for kind in base}


def begin_anew(layer: Module) -> None:
    """Take from the base's weights what an adapter of PiSSA's kind began as (see save_adapter)."""
    (adapter,) = layer.active_adapters
    factors = [held[adapter] for held in (layer.lora_A, layer.lora_B)]
    trained = [factor.weight.data for factor in factors]
    layer.reset_lora_parameters(adapter, layer.begun)
    for factor, weight in zip(factors, trained, strict=True):
        factor.weight.data = weight
