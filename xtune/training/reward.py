"""Reward models: learning to score answers from pairs of a better and a worse one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from transformers import PreTrainedTokenizerFast

from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import Encoded
from xtune.errors import RecipeError
from xtune.families import read_config
from xtune.families.embedded import model_directory
from xtune.families.reward import is_reward_config
from xtune.model.reward import ending_at, read_token, scores
from xtune.recipe.data_schema import Source
from xtune.recipe.objective_schema import Reward
from xtune.recipe.schema import Recipe
from xtune.run.target import scores_read_at
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


def check_base(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse what cannot be learnt with this base: to write, with a reward model; to score, at an unknown token or at
    another than the reward model that it is."""
    objective = recipe.train.objective
    base = model_directory(recipe.model.path)
    if not isinstance(objective, Reward):
        if is_reward_config(read_config(base)):
            raise RecipeError(
                "The base is a reward model: it scores answers, and cannot learn to write them.",
                where="model.path",
                fix='Use objective = "reward", or the language model that it was made of.',
            )
        return
    token = read_token(tokenizer, objective.read_at)
    before = read_token(tokenizer, scores_read_at(base))
    if before not in (None, token):
        raise RecipeError(
            f"The base is a reward model whose scores are read at {tokenizer.convert_ids_to_tokens(before)}.",
            where="train.objective.read_at",
            fix=f"read_at = {tokenizer.convert_ids_to_tokens(before)!r}",
        )
