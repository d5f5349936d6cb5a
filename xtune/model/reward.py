"""Scores of a reward model: a head for a base model, and where in a text its score is read.

A score is read at the last token. Where a recipe names a token for it, texts end with that one: it is put behind those
that do not have it after the answer, and what follows it is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import NO_LABEL, Encoded, encode, vocabulary_of
from xtune.errors import RecipeError
from xtune.families.reward import HEAD, is_reward_model
from xtune.messages import Message
from xtune.templates.template import Template

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_TOKENS = 16384
"""Of a batch of texts that are scored together."""


def add_head(model: PreTrainedModel, seed: int) -> None:
    """Make a causal language model a reward model, with weights from N(0, 1 / (hidden + 1)); nothing to one already."""
    import torch

    from xtune.families.reward_model import put_head, reward_class

    if is_reward_model(model):
        return
    device = model.device
    put_head(model)
    model.__class__ = reward_class(type(model))
    head = getattr(model, HEAD)  # weight [1, hidden], float32
    start = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed))
    head.weight = torch.nn.Parameter((start / (start.shape[1] + 1) ** 0.5).to(device))


def read_token(tokenizer: PreTrainedTokenizerFast, token: str | int | None) -> int | None:
    """The id of the token at which scores are read; None for the last. Raises RecipeError for an unknown one."""
    if token is None or isinstance(token, int):
        return token
    if token not in vocabulary_of(tokenizer):
        raise RecipeError(
            f"The tokenizer has no token {token}, at which to read scores.",
            where="train.objective.read_at",
            fix="Name one of its tokens, add it with model.added_tokens, or leave read_at out: the last token.",
        )
    return vocabulary_of(tokenizer)[token]


def ending_at(text: Encoded, token: int | None) -> Encoded:
    """The text up to where its score is read: see above."""
    if token is None:
        return text
    answered = int(np.flatnonzero(text.loss_mask).max(initial=0))
    places = np.flatnonzero(text.input_ids[answered:] == token)
    if len(places):
        end = answered + int(places[-1]) + 1
        return Encoded(text.input_ids[:end], text.labels[:end])
    return Encoded(np.append(text.input_ids, np.int32(token)), np.append(text.labels, np.int32(NO_LABEL)))


def scores(model: Module, batch: dict[str, Any]) -> Tensor:
    """The score of each text of a batch (collate's tensors) at its last token, float32 [texts]."""
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    if "sample_lengths" in batch:
        lengths = batch["sample_lengths"]
        rows = torch.zeros(len(lengths), dtype=torch.long)
        ends = torch.tensor(lengths).cumsum(0) - 1
        inputs["sample_lengths"] = lengths
    else:
        inputs["attention_mask"] = batch["attention_mask"]
        ends = batch["attention_mask"].sum(1) - 1
        rows = torch.arange(len(ends))
    columns, places = ends.to(batch["input_ids"].device).unique(return_inverse=True)
    outputs = model(**inputs, logits_to_keep=columns, use_cache=False).logits  # [rows, columns, 1]
    return outputs[rows.to(places.device), places, 0].float()


def score_texts(model: Module, texts: Sequence[Encoded], pad_id: int) -> list[float]:
    """The score of each text at its last token. Texts of about the same length are scored together, padded."""
    import torch

    found = [0.0] * len(texts)
    for places in _batches([len(text) for text in texts]):
        batch = collate([texts[place] for place in places], packing=False, pad_id=pad_id)
        tensors = {name: value.to(model.device) for name, value in batch.items()}
        with torch.inference_mode():
            for place, score in zip(places, scores(model, tensors).tolist(), strict=True):
                found[place] = score
    return found


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of texts that are scored together: up to _TOKENS, padding included."""
    batches: list[list[int]] = [[]]
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[place] > _TOKENS:
            batches.append([])
        batches[-1].append(place)
    return [batch for batch in batches if batch]


def pad_beside(tokenizer: PreTrainedTokenizerFast, template: Template, read_at: str | int | None) -> None:
    """Give a tokenizer another padding token where its own is the one at which scores are read.

    transformers' classes of classifiers look for the last token that is no padding, whatever the mask says.
    """
    turns = [Message("user", "1"), Message("assistant", "2")]
    text = ending_at(encode(turns, tokenizer=tokenizer, template=template), read_token(tokenizer, read_at))
    last = int(text.input_ids[-1])
    if tokenizer.pad_token_id == last:
        others = tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens
        ids = {token: tokenizer.convert_tokens_to_ids(token) for token in others if token}
        tokenizer.pad_token = next(token for token, index in ids.items() if index != last)
