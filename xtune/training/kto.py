"""KTO: learning from answers labelled good or bad, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.model.log_probs import answer_log_probs
from xtune.recipe.objective_schema import Kto
from xtune.training.layout import Layout, on_device
from xtune.training.objective import Loss, sums
from xtune.training.preference_losses import kto_loss
from xtune.training.reference import Reference


@dataclass(frozen=True)
class LabelledAnswers:
    """The mean over the answers of the step.

    How far the model has moved from the reference (the paper's z₀) is measured on questions with the answers of
    others, over all of the step, so that it does not depend on how the step is split into forward passes.
    """

    options: Kto
    dataset: Dataset
    reference: Reference
    layout: Layout
    baseline: dict[str, float] = field(default_factory=dict)

    def texts(self, sample: int) -> list[Encoded]:
        """The conversation."""
        return self.dataset.texts(sample)

    @cached_property
    def _others(self) -> np.ndarray:
        """Of each sample the next one that asks something else, int64 [samples]; the next where none does."""
        groups, numbers = self.dataset.groups, np.arange(len(self.dataset))
        (starts,) = np.nonzero(groups != np.roll(groups, 1))
        if not len(starts):
            return np.roll(numbers, -1)
        return starts[np.searchsorted(starts, numbers, side="right") % len(starts)]

    def with_answer_of_another(self, sample: int) -> Encoded:
        """The question of a sample with the answer to another question."""
        (asked,), (other,) = self.texts(sample), self.texts(int(self._others[sample]))
        question, answer = _first_learnt(asked), _first_learnt(other)
        return Encoded(
            np.concatenate([asked.input_ids[:question], other.input_ids[answer:]]),
            np.concatenate([asked.labels[:question], other.labels[answer:]]),
        )

    def reference_texts(self, sample: int) -> list[Encoded]:
        """What has to be known of the model before training: the answer, and that of another."""
        return [*self.texts(sample), self.with_answer_of_another(sample)]

    def weight(self, samples: Sequence[int]) -> float:
        """Answers."""
        return len(samples)

    def loss(self, model, batch: dict[str, Any]) -> Loss:
        """Also told: implicit rewards of good and of bad answers, and the distance from the reference."""
        if "share" in batch:
            self.baseline["kl"] = self._distance(model, batch["share"])
        samples = batch["samples"]
        log_probs, _ = answer_log_probs(model, batch, len(samples))
        ratios = log_probs - self.reference.of(samples).to(log_probs)[:, 0]
        good = torch.tensor(self.dataset.good[samples], dtype=torch.bool, device=ratios.device)
        options = self.options
        weights = options.good_weight, options.bad_weight
        losses = kto_loss(ratios, good, self.baseline["kl"], options.beta, weights)
        rewards = options.beta * ratios
        figures = {"rewards/good": rewards[good], "rewards/bad": rewards[~good]}
        return Loss(losses.sum(), {**sums(figures), "kl": (self.baseline["kl"] * len(samples), len(samples))})

    @torch.no_grad()
    def _distance(self, model, passes: Sequence[Sequence[int]]) -> float:
        device = next(model.parameters()).device
        total = torch.zeros(2, dtype=torch.float64, device=device)  # of log-probabilities, of answers
        for samples in passes:
            texts = [self.with_answer_of_another(sample) for sample in samples]
            batch = on_device(
                self.layout.collate(texts) if texts else self.layout.empty(self.texts(0)), device
            )
            log_probs, _ = answer_log_probs(model, batch, len(samples))
            total[0] += (log_probs - self.reference.of(samples).to(log_probs)[:, 1]).sum()
            total[1] += len(samples)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        return max(0.0, float(total[0] / total[1]))


def _first_learnt(text: Encoded) -> int:
    return int(np.argmax(text.labels != NO_LABEL))
