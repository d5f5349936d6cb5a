"""The models that are measured: what the user points at, and what it was before training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.load import chat_bits, load_target
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.recipe.schema import Recipe
from xtune.run.target import Target, find_target
from xtune.terminal import messages

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BASE, TUNED = "base", "tuned"


@dataclass(frozen=True)
class Subject:
    """A loaded model.

    name      its column in the table
    path      where it is
    target    whose template and tokenizer it is measured with
    """

    name: str
    path: str
    target: Target
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


def find_targets(paths: Sequence[str]) -> dict[str, Target]:
    """What each path is. Raises UsageError as find_target does."""
    return {path: find_target(path) for path in paths}


def subjects(
    targets: Mapping[str, Target], recipe: Recipe | None = None, bits: int | None = None
) -> Iterator[Subject]:
    """One after the other, in evaluation mode. Of a single adapter its base, which is the same model with the adapter
    switched off, and then itself; of a single run that trained all weights the recipe's base, and then itself; of
    several models each itself.

    The adapter is off while the base is the subject, so take the next one only when done with it.

    recipe   of the run, where a single target is one
    bits     as of load_chat
    """
    alone = len(targets) == 1
    for name, (path, target) in zip(_names(list(targets)), targets.items(), strict=True):
        if alone and recipe and not (target.adapter or target.reward or recipe.model.added_tokens):
            yield _load(BASE, recipe.model.path, _before(target, recipe), target, bits)
            name = TUNED
        subject = _load(name, path, target, target, bits)
        if not alone or target.adapter is None:
            yield subject
        elif target.reward:  # its head comes with the adapter: before there was none
            yield replace(subject, name=TUNED)
        else:
            with subject.model.disable_adapter():
                yield replace(subject, name=BASE, path=target.base)
            yield replace(subject, name=TUNED)
        del subject  # before the next one is loaded


def _load(name: str, path: str, loaded: Target, target: Target, bits: int | None) -> Subject:
    from xtune.model.fused import fuse

    messages().print(f"loading  {path}", soft_wrap=True, markup=False)
    model, tokenizer = load_target(loaded, bits=chat_bits(loaded, bits))
    if not target.reward:
        fuse(model, ["loss"])
    if loaded is not target:
        tokenizer = load_tokenizer(target.tokenizer_path, family=target.options.family)
    return Subject(name, path, target, model, tokenizer)


def _before(target: Target, recipe: Recipe) -> Target:
    return replace(target, base=recipe.model.path, options=Options.of(recipe.model))


def _names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or all of it where those are not different."""
    names = [Path(path).expanduser().resolve().name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)
