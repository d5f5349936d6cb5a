"""The layers of a model, from its config.json and the headers of its weight files, in any family's layout."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from xtune.errors import UsageError
from xtune.families import read_config, read_layout, read_native_config
from xtune.families.family import Layout, Options
from xtune.families.layout import Fused, heads, native_name
from xtune.model.health import Weights as WeightFiles
from xtune.model.health import meta_model, read_weights

_PLAIN = {"llama", "qwen2"}  # whose heads divide the hidden size, unless head_dim says otherwise
_SAID = {
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "tie_word_embeddings",
}

Shape = tuple[int, ...]
_NO_WEIGHTS = r"\.inv_freq$|\.masked_bias$|\.attn\.bias$"
"""Tensors that old checkpoints hold and models make themselves."""


@dataclass(frozen=True)
class Architecture:
    """What memory and time depend on.

    shapes      of all weights in the model, by transformers' names; what is tied, once
    linear      of them the linear layers that are not the output layer: name to (outputs, inputs)
    output      (vocabulary, hidden) of the output layer, tied or not; None: it has none, as reward models
    tied        whether it shares its weights with the embedding
    kind        transformers' name of the architecture: "llama" …
    heads       of queries; kv_heads of keys and values; head_size, their dimension
    context     longest text that it was trained on; None: config.json does not say
    stored      bytes of the weight files' tensors, and of a number in most of them; (0, 0) where they are not there
    norm_head   whether the rows of the output layer are normalised (Baichuan2); alibi: has linear biases in attention
    """

    shapes: dict[str, Shape]
    linear: dict[str, Shape]
    output: Shape | None
    tied: bool
    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    context: int | None
    stored: tuple[int, int]
    norm_head: bool
    alibi: bool

    @property
    def parameters(self) -> int:
        """Of the model."""
        return sum(map(prod, self.shapes.values()))

    @property
    def linear_parameters(self) -> int:
        """In the matrices that each token is multiplied with, without the output layer's."""
        return sum(map(prod, self.linear.values()))


def read_architecture(directory: Path, options: Options) -> Architecture:
    """Of a model directory, without its weights, which need not be there. Raises UsageError for what is no model."""
    layout = read_layout(directory, options)
    config = layout.native_config.get_text_config() if layout else _native(directory, options)
    tied = bool(getattr(config, "tie_word_embeddings", False))
    weights = read_weights(directory)
    shapes = _shapes(directory, layout, options, config, weights)
    embedding = next(
        (name for name in shapes if re.search(r"(embed_tokens|wte|embed_in)\.weight$", name)), ""
    )
    if tied and "lm_head.weight" in shapes:
        del shapes["lm_head.weight"]
    output = shapes.get("lm_head.weight", shapes.get(embedding) if tied else None)
    linear = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if len(shape) == 2 and re.search(r"\.\d+\.", name) and name.endswith(".weight")
    }
    query, groups, size = heads(config)
    return Architecture(
        shapes=shapes,
        linear=linear,
        output=output,
        tied=tied,
        kind=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=query,
        kv_heads=groups,
        head_size=size,
        context=getattr(config, "max_position_embeddings", None),
        stored=_stored(weights),
        norm_head=bool(getattr(config, "norm_head", False)),
        alibi=getattr(config, "position", None) == "alibi",
    )


def _native(directory: Path, options: Options) -> Any:
    """config.json, by transformers' class for it unless it says all itself: importing one takes two seconds."""
    config = read_config(directory)
    known = config.get("model_type") in _PLAIN and config.keys() >= _SAID and not options.rope_scaling
    return SimpleNamespace(**config) if known else read_native_config(directory, options).get_text_config()


def _stored(weights: WeightFiles) -> tuple[int, int]:
    sizes = Counter()
    for tensor in weights.tensors.values():
        sizes[tensor.itemsize] += tensor.elements * tensor.itemsize
    return (sizes.total(), sizes.most_common(1)[0][0]) if sizes else (0, 0)


def _shapes(
    directory: Path, layout: Layout | None, options: Options, config: Any, weights: WeightFiles
) -> dict[str, Shape]:
    """By transformers' names: from the files' headers, or, where these do not hold all of it, of the model's class."""
    if weights.problems or getattr(config, "quantization_config", None):
        try:
            model = meta_model(directory, layout, options)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"No model can be built by config.json: {' '.join(str(error).split())[:200]}",
                where=str(directory),
                fix="Copy the publisher's config.json again.",
            ) from None
        return {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    table, ignored = (layout.weights, layout.ignored) if layout else ((), ())
    found: dict[str, Shape] = {}
    for name, tensor in weights.tensors.items():
        if any(re.search(pattern, name) for pattern in (*ignored, _NO_WEIGHTS)):
            continue
        native, shape = native_name(name, table), tuple(tensor.shape)
        fused = next((one for one in table if isinstance(one, Fused) and one.original in name), None)
        if not fused:
            found[native] = shape
            continue
        query, groups, size = heads(config)
        for part, count in zip(fused.native, (query, groups, groups), strict=True):
            found[native.replace(fused.original, part)] = (count * size, *shape[1:])
    return found
