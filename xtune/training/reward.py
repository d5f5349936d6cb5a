"""Reward models: learning to score answers from pairs of a better and a worse one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import Encoded
from xtune.model.reward import ending_at, scores
from xtune.recipe.data_schema import Source
from xtune.recipe.objective_schema import Reward
from xtune.training.objective import Loss
from xtune.training.reward_losses import barrier, focal_ranking_loss, ranking_loss


@dataclass(frozen=True)
class PairwiseReward:
    """The mean over the pairs of the step.

    domains    of each source of the recipe, its name in the figures
    read_at    id of the token at which scores are read; None: the last one
    """

    options: Reward
    dataset: Dataset
    domains: list[str]
    read_at: int | None = None

    def texts(self, sample: int) -> list[Encoded]:
        """The conversation with the chosen answer, and with the rejected one, up to where scores are read."""
        return [ending_at(text, self.read_at) for text in self.dataset.texts(sample)]

    def weight(self, samples: Sequence[int]) -> float:
        """Pairs."""
        return len(samples)

    def loss(self, model, batch: dict[str, Any]) -> Loss:
        """Also told: how often the chosen answer has the higher score, in each domain too where there are several; and
        by how much it leads."""
        options, samples = self.options, batch["samples"]
        values = scores(model, batch)
        chosen, rejected = values[: 2 * len(samples)].view(-1, 2).unbind(1)
        if options.loss == "focal":
            losses = focal_ranking_loss(chosen, rejected, options.focal_gamma)
        else:
            losses = ranking_loss(chosen, rejected)
        if options.barrier_weight:
            losses = losses + options.barrier_weight * (barrier(chosen) + barrier(rejected))
        # In a pass without pairs too, the loss depends on the weights: other processes wait for its gradient.
        total = losses.sum() if samples else 0 * values.sum()
        margins = (chosen - rejected).detach()
        right = (margins > 0).float()
        figures = {"accuracy": (right.sum(), len(right)), "margin": (margins.sum(), len(right))}
        if len(set(self.domains)) > 1:
            of_each = [self.domains[self.dataset.source_of[sample]] for sample in samples]
            for name in dict.fromkeys(of_each):
                mine = [place for place, domain in enumerate(of_each) if domain == name]
                figures[f"accuracy/{name}"] = (right[mine].sum(), len(mine))
        return Loss(total, figures)


def domain_names(sources: Sequence[Source]) -> list[str]:
    """A name for what each source prefers: its condition, or its path, shortened; the same for the same condition."""
    names: dict[str, str] = {}
    for source in sources:
        short = shorten(source.condition or Path(source.path).name, 40, placeholder=" …")
        taken = sum(name == short or name.startswith(f"{short} (") for name in names.values())
        names.setdefault(source.condition or source.path, f"{short} ({taken + 1})" if taken else short)
    return [names[source.condition or source.path] for source in sources]
