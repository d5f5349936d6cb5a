"""What a model is measured on: the samples that a run held out, or files of the user's, encoded as for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtune.data.batches.draw import hold_out
from xtune.data.cache_key import file_hash
from xtune.data.dataset import Dataset, load_dataset
from xtune.data.read import open_source
from xtune.data.recognise import KINDS_OF, find_mapper
from xtune.data.report import DataReport
from xtune.errors import DataError, UsageError
from xtune.recipe.schema import Data, Recipe, Source
from xtune.run.directory import Run
from xtune.terminal import messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from xtune.templates.template import Template

LONGEST = 8192
"""Tokens of a sample, where neither a recipe nor the model's context says less."""


@dataclass(frozen=True)
class Part:
    """Samples that are measured together: the numbers of those of one source."""

    name: str
    dataset: Dataset
    samples: Sequence[int]

    @property
    def tokens(self) -> int:
        """With loss."""
        return int(self.dataset.loss_lengths[list(self.samples)].sum())


def held_out(run: Run, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, template: Template) -> list[Part]:
    """The samples that a run kept from training, by source. Raises UsageError where there are none, DataError where
    its files have changed: then nobody knows which they were."""
    _check_unchanged(run)
    kind = recipe.train.objective.kind
    _check_answers(KINDS_OF[kind], "The data of this run")
    dataset = load_dataset(recipe.data, tokenizer, template, kind)
    numbers = np.flatnonzero(hold_out(dataset.groups, recipe.data.held_out, recipe.train.seed))
    if not len(numbers):
        raise UsageError(
            f"data.held_out = {recipe.data.held_out} of {len(dataset)} samples was none.",
            where=str(run.path),
            fix="Name a file to measure it on: --data FILE",
        )
    of_source = [
        (source.path, numbers[dataset.source_of[numbers] == number].tolist())
        for number, source in enumerate(recipe.data.sources)
    ]
    return [Part(Path(path).name, dataset, samples) for path, samples in of_source if samples]


def check_held_out(runs: Mapping[str, Run], recipes: Mapping[str, Recipe], named: str) -> None:
    """Raise UsageError where no run is named, or the first held nothing out; tell of others that had other data."""
    if not runs:
        raise UsageError(
            f"What is {named} to be measured on? It is no run, which would have held samples out of its training.",
            fix="Name data (--data FILE) or tasks (--tasks NAME).",
        )
    first, *others = runs
    if not recipes[first].data.held_out:
        raise UsageError(
            "This run held no samples out of its training.",
            where=first,
            fix="Name a file to measure it on: --data FILE. Next time: data.held_out = 0.05 in the recipe.",
        )
    for path in others:
        if (recipes[path].data, recipes[path].train.seed) != (recipes[first].data, recipes[first].train.seed):
            messages().print(
                f"{path} had other data than {first}: it may have been trained on what that held out.",
                soft_wrap=True,
                markup=False,
            )


def file_part(
    source: Source,
    objective: str,
    tokenizer: PreTrainedTokenizerFast,
    template: Template,
    max_length: int,
) -> Part:
    """The samples of a file. Raises DataError where it cannot be read, or nothing in it can be used."""
    data = Data(sources=[source], max_length=max_length)
    dataset = load_dataset(data, tokenizer, template, objective)
    return Part(Path(source.path).name, dataset, range(len(dataset)))


def objective_of(source: Source) -> str:
    """The objective whose kind of samples a source has. Raises DataError where it cannot be read or told."""
    reader, _ = open_source(source, DataReport())
    kind = find_mapper(reader.format).kind
    _check_answers((kind,), source.path)
    return next((name for name, kinds in KINDS_OF.items() if kind in kinds), "sft")


def _check_answers(kinds: tuple[type, ...], what: str) -> None:
    if kinds == KINDS_OF["grpo"]:
        raise DataError(
            f"{what} holds prompts without answers: there is nothing to measure a loss on.",
            fix="Name data with answers (--data FILE), or tasks (--tasks NAME).",
        )


def _check_unchanged(run: Run) -> None:
    for source in run.read_json("data_files.json") or []:
        for file, then in source["files"].items():
            if file_hash(file).hex() != then["sha256"]:
                raise DataError(
                    f"{file} {'has changed' if Path(file).exists() else 'is gone'} since this run was trained: "
                    "nobody can tell which of its samples were held out.",
                    where=str(run.path / "data_files.json"),
                    fix="Put it back as it was, or name a file to measure the model on: --data FILE",
                )
