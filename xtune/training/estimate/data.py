"""The data of a recipe, as far as an estimate needs it: encoded, or, of large files that were not before, the first
records of each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtune.data.cache_key import cache_key
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.data.files import data_files
from xtune.home import home
from xtune.recipe.schema import Recipe, Source
from xtune.training.batches import Batches, MicroBatches, longest_pass, most_tokens
from xtune.training.estimate.memory import Pass
from xtune.training.layout import Layout
from xtune.training.start import tokenizer_and_template
from xtune.training.train import Preparation, prepare

_LARGE, _RECORDS = 8 << 20, 2000
_BY_LINES = (".jsonl", ".json", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Sampled:
    """A recipe prepared with all of its data, or some.

    more   how many times as many samples all of it has, about; 1 where it is all
    """

    preparation: Preparation
    more: float = 1.0

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return (
            self.preparation.plan.steps
            if self.more == 1
            else max(1, round(self.preparation.plan.steps * self.more))
        )


def sampled(recipe: Recipe, processes: int) -> Sampled:
    """Prepare a recipe. Raises UserErrors as it does."""
    large = [_large_file(source) for source in recipe.data.sources]
    if not any(large) or _is_encoded(recipe):
        return Sampled(prepare(recipe, processes))
    sources = [
        source.model_copy(update={"limit": _RECORDS}) if file else source
        for source, file in zip(recipe.data.sources, large, strict=True)
    ]
    data = recipe.data.model_copy(update={"sources": sources})
    preparation = prepare(recipe.model_copy(update={"data": data}), processes)
    if recipe.train.steps is not None:
        return Sampled(preparation)
    dataset = preparation.dataset
    counts = [(dataset.source_of == number).sum() for number in range(len(sources))]
    whole = 0.0
    for number, (file, count) in enumerate(zip(large, counts, strict=True)):
        places = dataset.places[dataset.source_of == number]
        whole += count / (_share(file, *places[-1][1:].tolist()) if file and count else 1)
    return Sampled(preparation, max(1.0, whole / sum(counts)))


def _is_encoded(recipe: Recipe) -> bool:
    tokenizer, choice = tokenizer_and_template(recipe.model)
    key = cache_key(recipe.data, tokenizer, choice.template, recipe.train.objective.kind)
    return (home() / "datasets" / key).is_dir()


def _large_file(source: Source) -> Path | None:
    """The file of a source of which the first records tell enough."""
    if source.limit is not None:
        return None
    files = data_files(source.path, source.split)
    if len(files) != 1 or Path(files[0]).suffix not in _BY_LINES or not os.path.isfile(files[0]):
        return None
    return Path(files[0]) if os.path.getsize(files[0]) >= _LARGE else None


def _share(file: Path, line: int, column: int) -> float:
    """Of a file's bytes, those up to a line, or up to a column of its only line."""
    size, read = os.path.getsize(file), 0
    with open(file, "rb") as stream:
        for _ in range(line - 1 if column else line):
            read += len(stream.readline())
    return min(1.0, (read + column) / size)


def largest_pass(recipe: Recipe, preparation: Preparation, *, on_cpu: bool) -> Pass:
    """The forward pass that takes most memory."""
    objective, sharing = recipe.train.objective, recipe.train.sequence_parallel
    layout = Layout(recipe.data.packing, preparation.tokenizer.pad_token_id, sharing)
    most = most_tokens(recipe, on_cpu=on_cpu, processes=preparation.processes)
    passes = MicroBatches(Batches(None, layout), preparation.plan, preparation.processes // sharing, most)
    texts = [text for sample in longest_pass(passes) for text in preparation.dataset.texts(sample)]
    if answers := getattr(objective, "completions", 0):
        texts = [_answered(text, objective.max_new_tokens) for text in texts for _ in range(answers)]
    batch, lengths = layout.arrange(texts), [len(text) for text in texts]
    rows, tokens = batch["input_ids"].shape
    return Pass(
        rows=rows,
        tokens=rows * tokens,
        longest=max(lengths),
        pairs=sum(length**2 for length in lengths) if layout.packing else rows * tokens**2,
        columns=len(batch["logits_to_keep"]),
        padded=not layout.packing and len(set(lengths)) > 1,
    )


def _answered(text: Encoded, longest: int) -> Encoded:
    """A prompt with an answer as long as it may be."""
    answer = np.zeros(longest, text.input_ids.dtype)
    labels = np.full(len(text), NO_LABEL, text.labels.dtype)
    return Encoded(np.concatenate([text.input_ids, answer]), np.concatenate([labels, answer]))
