"""Running tasks of lm-evaluation-harness: a model's figures for each."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

from xtune.errors import UsageError, UserError
from xtune.evaluate.find_tasks import SEED, Tasks, network
from xtune.evaluate.models import Subject
from xtune.evaluate.result import Figure, Measurement
from xtune.run.target import Target

_BOOTSTRAP = 1000
"""Draws by which the standard error of what is no mean is estimated, as of BLEU."""


def check_answering(targets: Mapping[str, Target]) -> None:
    """Raise UsageError for a reward model."""
    for path, target in targets.items():
        if target.reward:
            raise UsageError(
                "This is a reward model: it scores answers, and writes none.",
                where=path,
                fix="Measure it on preference pairs: --data FILE",
            )


def run_tasks(
    tasks: Tasks, subject: Subject, measured: dict[str, Measurement], *, chat: bool, limit: int | None
) -> None:
    """Put the model's figures for each task into `measured`.

    chat    whether prompts are put into the model's chat template, solved examples as earlier turns
    limit   only so many questions of each task
    """
    import torch
    from lm_eval.evaluator import evaluate

    from xtune.evaluate.harness import HarnessModel
    from xtune.model.load import is_out_of_memory

    torch.manual_seed(SEED)
    model = HarnessModel(subject)
    with network(False), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            results = evaluate(
                model,
                tasks,
                limit=limit,
                bootstrap_iters=_BOOTSTRAP,
                log_samples=False,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        except UserError:
            raise
        except Exception as error:  # what a task says may fail in any way
            if is_out_of_memory(error):
                raise
            raise UsageError(
                f"A task failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}",
                where=", ".join(tasks["tasks"]),
                fix="Put its file right, or leave it out; --debug shows where it happened.",
            ) from error
    for name, figures in {**results["results"], **results.get("groups", {})}.items():
        samples = results["n-samples"].get(name, {}).get("effective") or figures.get("sample_len", 0)
        measurement = Measurement(name, int(samples), results["n-shot"].get(name))
        measured.setdefault(f"task {name}", measurement).add(subject.name, _figures(figures))


def _figures(results: Mapping[str, Any]) -> dict[str, Figure]:
    """{"acc,none": 0.5, "acc_stderr,none": 0.1} as figures by metric; a filter that is not "none" goes with it."""
    figures = {}
    for key, value in results.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = results.get(f"{metric}_stderr,{filtered}")
        name = metric if filtered == "none" else f"{metric} ({filtered})"
        figures[name] = Figure(float(value), float(stderr) if isinstance(stderr, int | float) else None)
    return figures
