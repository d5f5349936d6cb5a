"""One layer of a LoRA adapter: which it is in the two layouts, its tensors cut into q, k and v, and joined again."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.convert.adapter_config import some
from xtune.errors import UsageError
from xtune.families.family import Layout
from xtune.families.layout import Fused, join_rows, original_name, split_rows

if TYPE_CHECKING:
    from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
"""Of a model's tensors, by name."""

_FACTORS = {"lora_A.weight", "lora_B.weight", "lora_B.bias"}  # what may be zero


@dataclass(frozen=True)
class Layer:
    """What an adapter has for one layer: tensors by the ends of their names, such as lora_A.weight."""

    tensors: dict[str, Tensor]
    alpha: float

    @property
    def rank(self) -> int:
        """0 where there is no LoRA, but a bias or a whole weight."""
        first = self.tensors.get("lora_A.weight", self.tensors.get("lora_embedding_A"))
        return 0 if first is None else first.shape[0]


@dataclass(frozen=True)
class Names:
    """The layers of a model in both layouts.

    parts      of each layer of the publisher's, the native ones: three of a fused layer, else one
    native     shapes of the native model's tensors, by name; original: of the publisher's
    """

    parts: dict[str, list[str]]
    native: Shapes
    original: Shapes

    @classmethod
    def of(cls, layout: Layout) -> Names:
        import torch

        with torch.device("meta"):
            model = layout.model_class(layout.native_config)
        native = {
            name: tuple(weight.shape) for name, weight in model.named_parameters(remove_duplicate=False)
        }
        order = [part for entry in layout.weights if isinstance(entry, Fused) for part in entry.native]
        parts = defaultdict(list)
        for name in native:
            parts[original_name(name, layout.weights)].append(name)
        for names in parts.values():
            names.sort(key=lambda name: next((i for i, part in enumerate(order) if part in name), 0))
        original = {
            whole: (sum(native[name][0] for name in names), *native[names[0]][1:])
            for whole, names in parts.items()
        }
        return cls(
            {layer_of(whole): [*map(layer_of, names)] for whole, names in parts.items()}, native, original
        )


def layer_of(tensor: str) -> str:
    """model.norm of model.norm.weight."""
    return tensor.rpartition(".")[0]


def faults(name: str, kinds: dict[str, Tensor], shapes: Shapes, rank: int) -> list[str]:
    """What is missing of a layer's tensors, or has another shape than it must."""
    weight, bias = shapes[f"{name}.weight"], shapes.get(f"{name}.bias")
    embedding = any("embedding" in kind for kind in kinds)
    out = weight[-1] if embedding else weight[0]
    if embedding:
        factors = {"lora_embedding_A": (rank, weight[0]), "lora_embedding_B": (out, rank)}
    else:
        factors = {"lora_A.weight": (rank, weight[-1]), "lora_B.weight": (out, rank)}
    expected = {
        **factors,
        **dict.fromkeys(("lora_B.bias", "lora_magnitude_vector"), (out,)),
        **dict.fromkeys(("weight", "base_layer.weight"), weight),
        **dict.fromkeys(("bias", "base_layer.bias"), bias),
    }
    missing = [kind for kind in factors if kind not in kinds and any("lora_" in other for other in kinds)]
    return [f"{name}.{kind} is missing" for kind in missing] + [
        f"{name}.{kind} is {list(tensor.shape)}"
        + (f", not {list(shape)}" if shape else ", and there is no bias")
        for kind, tensor in kinds.items()
        if tuple(tensor.shape) != (shape := expected[kind])
    ]


def split_layer(whole: Layer, entry: Fused, config: Any) -> list[Layer]:
    """A fused layer's q, k and v."""
    parts: list[Layer] = [Layer({}, whole.alpha) for _ in entry.native]
    for kind, tensor in whole.tensors.items():
        rows = [tensor] * len(parts) if kind == "lora_A.weight" else split_rows(tensor, entry.rows, config)
        for part, own in zip(parts, rows, strict=True):
            part.tensors[kind] = own
    return parts


def join_layers(
    held: Sequence[Layer | None], sizes: list[int], entry: Fused, config: Any, rslora: bool
) -> Layer:
    """The inverse, for any q, k and v, of which some may have no LoRA. sizes: the rows of each."""
    import torch

    kinds = {kind.removeprefix("base_layer.") for layer in held if layer for kind in layer.tensors}
    joined: dict[str, Tensor] = {}
    adapted = [layer for layer in held if layer and layer.rank]
    for kind in kinds - _FACTORS:
        name = f"base_layer.{kind}" if adapted and kind in ("weight", "bias") else kind
        rows = [layer.tensors.get(kind, layer.tensors.get(f"base_layer.{kind}")) for layer in held]
        joined[name] = join_rows(tuple(rows), entry.rows, config)
    if not adapted:
        return Layer(joined, 1)
    first = adapted[0]
    a = first.tensors["lora_A.weight"]
    same = all(
        torch.equal(layer.tensors["lora_A.weight"], a) and layer.alpha == first.alpha for layer in adapted
    )
    if not same:
        a = torch.cat([layer.tensors["lora_A.weight"] for layer in adapted])
    rank, factors, biases, start = a.shape[0], [], [], 0
    for layer, size in zip(held, sizes, strict=True):
        factors.append(torch.zeros(size, rank, dtype=first.tensors["lora_B.weight"].dtype))
        biases.append(torch.zeros(size, dtype=a.dtype))
        if layer is None or not layer.rank:
            continue
        relative = _scale(layer, rslora) / _scale(first, rslora)
        b, bias = (layer.tensors.get(f"lora_B.{kind}") for kind in ("weight", "bias"))
        if relative != 1:  # in float32, which rounds nothing that bfloat16 holds
            factors[-1] = factors[-1].float()
            b, bias = b.float() * relative, bias if bias is None else bias.float() * relative
        factors[-1][:, start : start + layer.rank] = b
        biases[-1] = biases[-1] if bias is None else bias
        start += 0 if same else layer.rank
    joined |= {"lora_A.weight": a, "lora_B.weight": join_rows(tuple(factors), entry.rows, config)}
    if "lora_B.bias" in kinds:
        joined["lora_B.bias"] = join_rows(tuple(biases), entry.rows, config)
    growth = rank / first.rank
    alpha = first.alpha * (math.sqrt(growth) if rslora else growth)
    return Layer(joined, int(alpha) if alpha == int(alpha) else alpha)


def _scale(layer: Layer, rslora: bool) -> float:
    """s above. rsLoRA (arXiv:2312.03732) divides by the root of the rank."""
    return layer.alpha / (math.sqrt(layer.rank) if rslora else layer.rank)


def check_whole(whole: str, parts: list[str], held: Sequence[Layer | None], source: Path) -> None:
    """Of what is no factor, such as biases, a fused layer has all three or none: zeros would not do."""
    kinds = {kind.removeprefix("base_layer.") for layer in held if layer for kind in layer.tensors}
    for kind in sorted(kinds - _FACTORS):
        lacking = [
            part
            for part, layer in zip(parts, held, strict=True)
            if layer is None or not {kind, f"base_layer.{kind}"} & layer.tensors.keys()
        ]
        if lacking:
            raise UsageError(
                f"{whole} is one layer there, and the adapter has {kind} of only some of it, not of {some(lacking)}.",
                where=str(source),
                fix=f"Make a merged model instead: xtune convert merge {source} OUT",
            )
