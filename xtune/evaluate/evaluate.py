"""Measures models on data and tasks: what `xtune eval` does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from xtune.chat.generate import context
from xtune.errors import ResourceError
from xtune.evaluate.find_tasks import load_tasks
from xtune.evaluate.losses import Sums, added, figures_of, language_sums, reward_sums
from xtune.evaluate.models import Subject, find_targets, subjects
from xtune.evaluate.own_data import LONGEST, Part, check_held_out, file_part, held_out, objective_of
from xtune.evaluate.result import Evaluation, Figure, Measurement, check_new, free_name, write_result
from xtune.evaluate.run_tasks import check_answering, run_tasks
from xtune.model.reward import read_token
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Recipe, Source
from xtune.run.directory import Run, is_run
from xtune.terminal import messages, quiet_libraries


@dataclass(frozen=True)
class Wanted:
    """What models are measured on.

    data       files of the user's; without any, and without tasks, the samples that the run held out
    format     of the rows of the files
    tasks      of lm-evaluation-harness: names, and files that describe one
    include    a folder with more of them
    shots      solved examples in front of each question of a task; None: as the task says
    chat       whether a task's prompts are put into the chat template
    download   whether the data of tasks may be fetched from the hub
    limit      measure only the first samples of each
    """

    data: Sequence[str] = ()
    format: str = "auto"
    tasks: Sequence[str] = ()
    include: str | None = None
    shots: int | None = None
    chat: bool = True
    download: bool = False
    limit: int | None = None


def evaluate(
    paths: Sequence[str], wanted: Wanted, *, bits: int | None = None, out: str | None = None
) -> Evaluation:
    """Measure one model, before and after training where it is a run or an adapter, or several beside each other; and
    write what was measured as JSON: to `out`, else to eval.json (eval-2.json ...) in the run, if it is one.

    bits    as of load_chat

    Raises UsageError and DataError for what the user names, ResourceError where memory runs out.
    """
    from xtune.model.load import is_out_of_memory

    quiet_libraries()
    if out is not None:
        check_new(Path(out).expanduser())
    targets = find_targets(paths)
    runs = {path: Run(folder) for path in paths if is_run(folder := Path(path).expanduser())}
    recipes = {path: load_recipe(run.recipe_file) for path, run in runs.items()}
    if not (wanted.data or wanted.tasks):
        check_held_out(runs, recipes, paths[0])
    tasks = None
    if wanted.tasks:
        check_answering(targets)
        tasks = load_tasks(wanted.tasks, wanted.include, wanted.shots, download=wanted.download)
    first = next(iter(runs), None)
    recipe = recipes.get(first)
    sources = [Source(path=path, format=wanted.format) for path in wanted.data]
    kinds = [objective_of(source) for source in sources]  # before anything is loaded
    models: dict[str, str] = {}
    measured: dict[str, Measurement] = {}
    try:
        for subject in subjects(targets, recipe, bits):
            models[subject.name] = subject.path
            parts = _files(subject, sources, kinds, recipe)
            if not (sources or tasks):
                parts = held_out(runs[first], recipe, subject.tokenizer, subject.target.template)
            if len(models) == 1 and sources:
                for part in parts:
                    messages().print(part.dataset.summary, style="dim", markup=False, soft_wrap=True)
            _measure(subject, parts, wanted.limit, measured)
            if tasks:
                run_tasks(tasks, subject, measured, chat=wanted.chat, limit=wanted.limit)
            del subject
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "Out of memory while the model was measured.",
            where=", ".join(paths),
            fix="Load it in 4 bits (--bits 4), or leave out the longest samples.",
        ) from error
    _warn_of_other_tokens(measured.values())
    evaluation = Evaluation(models, asdict(wanted), list(measured.values()))
    if out is None and first and len(targets) == 1:
        out = str(free_name(runs[first].path))
    if out is not None:
        write_result(evaluation, Path(out).expanduser())
        messages().print(f"written  {out}", soft_wrap=True, markup=False)
    return evaluation


def _files(
    subject: Subject, sources: Sequence[Source], kinds: Sequence[str], recipe: Recipe | None
) -> list[Part]:
    longest = recipe.data.max_length if recipe else min(context(subject.model), LONGEST)
    return [
        file_part(
            source,
            "reward" if subject.target.reward else kind,
            subject.tokenizer,
            subject.target.template,
            longest,
        )
        for source, kind in zip(sources, kinds, strict=True)
    ]


def _measure(
    subject: Subject, parts: Sequence[Part], limit: int | None, measured: dict[str, Measurement]
) -> None:
    parts = [replace(part, samples=part.samples[:limit]) for part in parts]
    sums = [_sums(subject, part) for part in parts]
    for number, (part, one) in enumerate(zip(parts, sums, strict=True)):
        tokens = {"tokens with loss": Figure(part.tokens)}
        measurement = measured.setdefault(f"data {number}", Measurement(part.name, len(part.samples)))
        measurement.add(subject.name, figures_of(one) | tokens)
    if len(parts) > 1 and len({frozenset(one) for one in sums}) == 1:
        measurement = measured.setdefault(
            "data", Measurement("all", sum(len(part.samples) for part in parts))
        )
        tokens = {"tokens with loss": Figure(sum(part.tokens for part in parts))}
        measurement.add(subject.name, figures_of(added(sums)) | tokens)


def _sums(subject: Subject, part: Part) -> Sums:
    texts = [part.dataset.texts(sample) for sample in part.samples]
    pad_id = subject.tokenizer.pad_token_id
    if subject.target.reward:
        read_at = read_token(subject.tokenizer, subject.target.read_at)
        return reward_sums(subject.model, texts, pad_id, read_at)
    return language_sums(subject.model, texts, part.dataset.good[list(part.samples)], pad_id)


def _warn_of_other_tokens(measurements: Iterable[Measurement]) -> None:
    counts = [one.figures.get("tokens with loss", {}).values() for one in measurements]
    if any(len({figure.value for figure in figures}) > 1 for figures in counts):
        messages().print(
            "The models cut the same text into different tokens: compare what they write, not their losses."
        )
