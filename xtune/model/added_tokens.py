"""Rows of the embedding and of the output layer for tokens that a recipe adds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from xtune.families.tokenizer import declared_tokens, load_tokenizer
from xtune.recipe.schema import Model

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel


def add_tokens(model: PreTrainedModel, recipe: Model) -> list[int]:
    """Give the model rows for the tokens that a recipe names; their ids. What the base has already keeps its row."""
    if not recipe.added_tokens:
        return []
    known = load_tokenizer(recipe.path, family=recipe.family).get_vocab()
    tokenizer = load_tokenizer(recipe.path, family=recipe.family, added_tokens=recipe.added_tokens)
    declared = declared_tokens(tokenizer)
    ids = [declared[token] for token in recipe.added_tokens]
    new = [declared[token] for token in recipe.added_tokens if token not in known]
    grow_embeddings(model, ids, new)
    return ids


def grow_embeddings(model: PreTrainedModel, ids: Collection[int], new: Sequence[int] = ()) -> None:
    """Give the model a row for each id, in its embedding and its output layer.

    ids     of added tokens. Rows that the base has beyond its vocabulary serve them first; where they are not
            enough, the number of rows grows to a multiple of 64, or of 128 where it was one, as kernels like it
    new     those of them whose rows begin anew

    Rows that are new begin as the mean of the rows of all other tokens. Layers that are tied stay tied. (Of
    transformers' resize_token_embeddings, the output layer is always a plain Linear, and rows are drawn at random.)
    """
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    before = len(embedding.weight)
    multiple = 128 if before % 128 == 0 else 64
    size = max(ids) + 1
    rows = before if size <= before else -(-size // multiple) * multiple
    if rows == before and not new:
        return
    tied = output is not None and output.weight is embedding.weight
    _grow(embedding, "num_embeddings", rows, ids, new)
    if tied:
        output.weight, output.out_features = embedding.weight, rows
    elif output is not None:
        _grow(output, "out_features", rows, ids, new)
    model.config.get_text_config().vocab_size = rows


def _grow(layer: Module, size: str, rows: int, ids: Collection[int], new: Sequence[int]) -> None:
    import torch

    setattr(layer, size, rows)
    for name, weight in list(layer.named_parameters(recurse=False)):  # weight [rows, hidden], bias [rows]
        grown = grown_rows(weight.detach(), rows, ids, new)
        setattr(layer, name, torch.nn.Parameter(grown, requires_grad=weight.requires_grad))


def grown_rows(weight: Tensor, rows: int, ids: Collection[int], new: Sequence[int] = ()) -> Tensor:
    """A copy of weights [rows before, ...] with more rows, as grow_embeddings gives them."""
    grown = weight.new_empty(rows, *weight.shape[1:])
    grown[: len(weight)] = weight
    start = _mean(weight, ids)
    grown[len(weight) :] = start
    grown[[index for index in new if index < len(weight)]] = start
    return grown


def _mean(weight: Tensor, ids: Collection[int]) -> Tensor:
    """Of the rows up to the last id, without those of ids."""
    import torch

    count = min(max(ids) + 1, len(weight))
    own = [index for index in ids if index < count]
    total = weight[:count].sum(0, dtype=torch.float64) - weight[own].sum(0, dtype=torch.float64)
    return (total / (count - len(own))).to(weight.dtype)
