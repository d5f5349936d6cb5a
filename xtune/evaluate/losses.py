"""How likely a model finds texts, and how a reward model scores them, summed up into figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import Encoded
from xtune.evaluate.result import Figure
from xtune.model.reward import ending_at, score_texts
from xtune.terminal import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = {"cpu": 1024}
"""Of texts that go through the model at once, padding included: a CPU is no faster with more, other devices are."""
_LIKE = 0.75
"""Of the longest text, the length of the shortest beside it: padding costs as much as text."""

Sums = dict[str, tuple[float, int]]
"""Name to a sum and the number of what was summed."""


def text_losses(model: PreTrainedModel, texts: Sequence[Encoded], pad_id: int) -> np.ndarray:
    """-log p of the labels of each text, summed, in nats: float64 [texts]. A model whose output layer is fused
    (xtune.model.fused) computes no logits for it, which of long texts would fill the memory."""
    import torch

    from xtune.model.log_probs import label_losses

    losses = np.zeros(len(texts))
    with torch.no_grad(), progress("measuring", len(texts), "texts") as advance:
        for places in in_batches([len(text) for text in texts], model):
            batch = collate([texts[place] for place in places], packing=False, pad_id=pad_id)
            batch = {name: value.to(model.device) for name, value in batch.items()}
            each = label_losses(model, batch).view(len(places), -1)
            losses[places] = each.double().sum(1).cpu().numpy()
            advance(len(places))
    return losses


def in_batches(lengths: Sequence[int], model: PreTrainedModel) -> list[list[int]]:
    """Numbers of texts that go through the model together: of about the same length, the longest first, so that what
    does not fit into memory shows at once. No more than _TOKENS, but for a longer one alone."""
    most = _TOKENS.get(model.device.type, 8192)
    batches: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        full = not batches or (len(batches[-1]) + 1) * longest > most
        if full or lengths[place] < _LIKE * longest:
            batches.append([])
            longest = lengths[place]
        batches[-1].append(place)
    return batches


def language_sums(
    model: PreTrainedModel, texts: Sequence[Sequence[Encoded]], good: Sequence[bool], pad_id: int
) -> Sums:
    """Of conversations and documents the loss; of pairs that on the chosen and on the rejected answer, and how often
    the chosen one is likelier; of labelled answers that on good and on bad ones."""
    flat = [text for sample in texts for text in sample]
    losses = text_losses(model, flat, pad_id).reshape(len(texts), -1)
    tokens = np.array([_learnt(text) for text in flat]).reshape(losses.shape)
    if losses.shape[1] == 2:
        names = ("loss of chosen", "loss of rejected")
        sums = {name: (float(losses[:, n].sum()), int(tokens[:, n].sum())) for n, name in enumerate(names)}
        return sums | {"chosen likelier": (int((losses[:, 0] < losses[:, 1]).sum()), len(losses))}
    is_good = np.array(good, bool)
    groups = {"loss": is_good} if is_good.all() else {"loss of good": is_good, "loss of bad": ~is_good}
    return {name: (float(losses[of].sum()), int(tokens[of].sum())) for name, of in groups.items() if of.any()}


def reward_sums(
    model: PreTrainedModel, texts: Sequence[Sequence[Encoded]], pad_id: int, read_at: int | None
) -> Sums:
    """Of pairs: how often the chosen answer has the higher score, and by how much it leads."""
    flat = [ending_at(text, read_at) for sample in texts for text in sample]
    chosen, rejected = np.array(score_texts(model, flat, pad_id)).reshape(-1, 2).T
    margins = chosen - rejected
    return {
        "accuracy": (int((margins > 0).sum()), len(margins)),
        "margin": (float(margins.sum()), len(margins)),
    }


def added(several: Sequence[Sums]) -> Sums:
    """The sums of several groups of samples, all of the same names, as those of one."""
    return {
        name: (sum(one[name][0] for one in several), sum(one[name][1] for one in several))
        for name in several[0]
    }


def figures_of(sums: Sums) -> dict[str, Figure]:
    """Means, the perplexity beside a loss, and the standard error of shares."""
    figures = {}
    for name, (total, count) in sums.items():
        mean = total / count
        if name in ("accuracy", "chosen likelier"):
            figures[name] = Figure(mean, math.sqrt(mean * (1 - mean) / count))
            continue
        figures[name] = Figure(mean)
        if name == "loss":
            figures["perplexity"] = Figure(math.exp(mean) if mean < 700 else math.inf)
    return figures


def _learnt(text: Encoded) -> int:
    return int(text.loss_mask[1:].sum())  # the first token is never predicted
