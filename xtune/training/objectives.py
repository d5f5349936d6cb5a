"""From what a recipe calls it to the objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast, TrainerCallback

from xtune.chat.generate import stop_ids
from xtune.data.batches.plan import Plan
from xtune.data.dataset import Dataset
from xtune.model.reward import read_token
from xtune.recipe.objective_schema import Dpo, Kto, Pretrain, Reward, Sft
from xtune.recipe.online_schema import Grpo, Rloo
from xtune.recipe.schema import Full, Recipe
from xtune.templates.template import Template
from xtune.training.kto import LabelledAnswers
from xtune.training.layout import Layout
from xtune.training.objective import Objective
from xtune.training.online import CheckPrompts, Online
from xtune.training.preference import Preference
from xtune.training.reference import MeasureReference, Reference
from xtune.training.reward import PairwiseReward, domain_names
from xtune.training.rewards import check_answer, load_judges
from xtune.training.rollout import Sampling
from xtune.training.sft import NextToken


def make_objective(
    recipe: Recipe,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    layout: Layout,
    needed: Sequence[int],
    plan: Plan,
    run: Path,
) -> tuple[Objective, list[TrainerCallback]]:
    """The objective of a recipe, and what has to be done for it before and during training.

    needed   the samples of all steps of the plan, and those held out
    run      the run directory
    """
    options = recipe.train.objective
    if isinstance(options, Sft | Pretrain):
        return NextToken(dataset), []
    if isinstance(options, Reward):
        read_at = read_token(tokenizer, options.read_at)
        return PairwiseReward(options, dataset, domain_names(recipe.data.sources), read_at), []
    if isinstance(options, Grpo | Rloo):
        sampling = Sampling(
            options.max_new_tokens,
            options.temperature,
            stop_ids(tokenizer, template),
            layout.pad_id,
            options.generation_batch,
        )
        online = Online(
            options,
            dataset,
            layout,
            tokenizer,
            sampling,
            load_judges(options.rewards),
            [source.condition for source in recipe.data.sources],
            recipe.train.seed,
            run / "completions.jsonl",
        )
        if any(reward.function == "answer" for reward in options.rewards):
            for sample in needed:
                check_answer(online.question(sample))
        return online, [CheckPrompts(int(dataset.lengths[needed].max()), options.max_new_tokens)]
    if not isinstance(options, Dpo | Kto):
        return Preference(options, dataset), []
    reference = Reference(run / "reference.npz", len(dataset))
    method = recipe.method
    base = not isinstance(method, Full) and method.init in ("default", "gaussian")
    if isinstance(options, Dpo):
        objective = Preference(options, dataset, reference)
        texts = objective.texts
    else:
        objective = LabelledAnswers(options, dataset, reference, layout)
        texts = objective.reference_texts
    return objective, [MeasureReference(reference, texts, layout, needed, plan, base)]
