"""`xtune train --dry-run`: what would stop a run, or make it come out badly, looked for in the real model and data.

Whatever is wrong with the recipe or keeps the data from being read has been raised before, by load_recipe and prepare.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xtune.data.encoding.encode import NO_LABEL
from xtune.data.report import faults
from xtune.errors import DataError, ResourceError, UsageError, UserError
from xtune.families import find_family, read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.model.health import check_tensors, meta_model, read_weights
from xtune.recipe.schema import Full, Recipe
from xtune.training.estimate.data import Sampled
from xtune.training.estimate.estimate import Estimate, estimate_of, this_device
from xtune.training.estimate.show import duration, size
from xtune.training.optimizers import schedule
from xtune.training.train import Preparation

_LEAST_LEARNT, _MOST_REJECTED = 0.01, 0.05
_SAMPLES = 200  # looked at for their stop tokens


@dataclass(frozen=True)
class Finding:
    """What one look showed: a fact, and what is to be done about it; with `error` the run must not begin."""

    subject: str
    fact: str
    fix: str = ""
    error: UserError | None = None

    def __str__(self) -> str:
        mark = "✗" if self.error else "!" if self.fix else "✓"
        lines = [f"{mark} {self.subject:9} {self.fact}"]
        if self.error and self.error.where:
            lines.append(f"            where: {self.error.where}")
        if self.fix:
            lines.append(f"            fix:   {self.fix}")
        return "\n".join(lines)


def _fault(subject: str, error: UserError) -> Finding:
    return Finding(subject, error.what, error.fix or "", error)


def preflight(recipe: Recipe, preparation: Preparation, runs: Path) -> Iterator[Finding]:
    """All that is found, one after the other.

    runs   the folder in which run directories are made
    """
    yield from _data(recipe, preparation)
    yield from _stop_tokens(recipe, preparation)
    yield _template(preparation)
    yield from _model(recipe)
    try:
        found = estimate_of(recipe, Sampled(preparation), this_device(recipe))
    except UserError as error:  # told of the model already
        yield _fault("memory", error)
        return
    yield from _context(recipe, preparation, found)
    yield from _memory(found)
    yield _disk(found, runs)
    yield from _steps(recipe, found)


def _data(recipe: Recipe, preparation: Preparation) -> Iterator[Finding]:
    dataset = preparation.dataset
    report = dataset.report
    read, rejections = report["read"], faults(report)
    fact = f"{report['kept']:,} of {read:,} records kept"
    if sum(tally["count"] for tally in rejections.values()) > _MOST_REJECTED * read:
        reason, tally = next(iter(rejections.items()))
        fix = f"See what is wrong with them: xtune data check {recipe.data.sources[0].path}"
        yield Finding("data", f"{fact}; most often: {reason} ({tally['places'][0]})", fix)
    else:
        yield Finding("data", fact)
    again = report["notes"].get("the same as an earlier record", {}).get("count", 0)
    if again > _MOST_REJECTED * read:
        fix = 'Leave them out: data.defects.duplicate = "drop"'
        yield Finding("data", f"{again:,} records are the same as an earlier one", fix)
    tokens, learnt = int(dataset.lengths.sum()), int(dataset.loss_lengths.sum())
    if hasattr(recipe.train.objective, "completions"):
        return
    fact = f"{learnt:,} of {tokens:,} tokens with loss ({learnt / tokens:.1%})"
    if learnt < _LEAST_LEARNT * tokens:
        yield Finding(
            "loss",
            fact,
            "Look at what is learnt: xtune data show RECIPE; the answers may be in the wrong column.",
        )
    else:
        yield Finding("loss", fact)


def _stop_tokens(recipe: Recipe, preparation: Preparation) -> Iterator[Finding]:
    from xtune.chat.generate import stop_ids

    if recipe.train.objective.kind in ("pretrain", "grpo", "rloo", "reward"):
        return
    dataset, stops = preparation.dataset, stop_ids(preparation.tokenizer, preparation.template)
    spread = np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).astype(int)
    ends = [end for sample in spread for text in dataset.texts(sample) for end in _last_labels(text.labels)]
    learnt = np.isin(ends, stops).mean() if ends else 0.0
    fact = f"{learnt:.0%} of {len(ends):,} answers end with a stop token"
    if learnt == 1:
        yield Finding("stop", fact)
    elif learnt > 0.5:
        yield Finding(
            "stop", fact, 'Those cut at data.max_length do not; raise it, or use data.overlong = "drop".'
        )
    else:
        error = DataError(
            f"{fact}: the model would not learn to stop.",
            where="model.template",
            fix="Use a template whose {% generation %} block holds the token that ends an answer.",
        )
        yield _fault("stop", error)


def _last_labels(labels: np.ndarray) -> np.ndarray:
    """The last label of each stretch that has any."""
    learnt = labels != NO_LABEL
    return labels[learnt & ~np.append(learnt[1:], False)]


def _template(preparation: Preparation) -> Finding:
    choice = preparation.choice
    fact = f"{choice.template.name}, {choice.why}"
    if not choice.differences:
        return Finding("template", fact)
    return Finding(
        "template",
        f"{fact}; the checkpoint's own writes something else (above)",
        "To train on that one, mark what is learnt in it by {% generation %}, and name its file in model.template.",
    )


def _model(recipe: Recipe) -> Iterator[Finding]:
    from xtune.model.adapters import attach_adapter

    directory, options = model_directory(recipe.model.path), Options.of(recipe.model)
    layout = read_layout(directory, options)
    weights = read_weights(directory)
    model = meta_model(directory, layout, options)
    problems = list(weights.problems)
    if not getattr(model.config, "quantization_config", None):
        problems += check_tensors(weights, directory, model, layout)
    for problem in problems:
        yield _fault("base", UsageError(problem.summary, where=problem.where, fix=problem.fix))
    if not problems:
        yield Finding(
            "base", f"all {len(weights.tensors):,} tensors are there, in {len(weights.files)} files"
        )
    method = recipe.method
    if isinstance(method, Full):
        return
    targets = find_family(directory, options.family).lora_targets
    try:
        # How factors begin needs weights; where they go does not.
        adapted = attach_adapter(model, method.model_copy(update={"init": "default"}), targets)
    except UserError as error:
        yield _fault("adapter", error)
        return
    count = sum("lora_A" in name for name, _ in adapted.named_parameters())
    yield Finding("adapter", f"{count} linear layers get one of rank {method.rank} (method.targets)")


def _context(recipe: Recipe, preparation: Preparation, found: Estimate) -> Iterator[Finding]:
    lengths = np.diff(preparation.dataset.offsets)
    if found.context is None or recipe.model.rope_scaling:
        return
    longer = int((lengths > found.context).sum())
    if longer:
        fix = f"Set data.max_length = {found.context}, or stretch its positions (model.rope_scaling)."
        yield Finding(
            "length", f"{longer:,} texts are longer than the {found.context:,} tokens the model knows", fix
        )
    else:
        yield Finding(
            "length", f"at most {lengths.max():,} tokens, of {found.context:,} that the model knows"
        )


def _memory(found: Estimate) -> Iterator[Finding]:
    taken = f"about {size(found.memory.total)} at the peak, {size(found.device.limit)} free on {found.device.name}"
    if found.fits:
        yield Finding("memory", taken)
        return
    best = ", or ".join(f"{setting} ({size(less)} less)" for setting, less in found.helps[:3])
    yield _fault("memory", ResourceError(f"Too little: {taken}.", fix=best or "Use a smaller model."))


def _disk(found: Estimate, runs: Path) -> Finding:
    needed = (
        found.checkpoints + 1
    ) * found.checkpoint + found.result  # a new one is written before the oldest goes
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    fact = f"about {size(needed)} for checkpoints and the result, {size(free)} free"
    if needed <= free:
        return Finding("disk", fact)
    fix = "Free some space, lower train.keep_checkpoints, or name another place (--run-dir)."
    return _fault("disk", ResourceError(f"Too little: {fact}.", where=str(place), fix=fix))


def _steps(recipe: Recipe, found: Estimate) -> Iterator[Finding]:
    warmup = schedule(recipe.train, found.steps)["warmup_steps"]
    if warmup >= found.steps > 1:
        fix = f"Lower train.warmup below {found.steps}, or give it as a share (0.03)."
        fact = f"all {found.steps} steps are warm-up: the learning rate never reaches its height"
        yield Finding("warm-up", fact, fix)
    if found.seconds is not None:
        yield Finding("time", f"about {duration(found.seconds)} for {found.steps:,} steps")
