"""What a step tells: a line in metrics.jsonl and the progress bar."""

from __future__ import annotations

import math
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from xtune.data.batches.plan import Plan
from xtune.run.curve import judged_by
from xtune.terminal import messages
from xtune.training.json_lines import append, keep_until

_TRAINERS = {"loss", "grad_norm", "learning_rate", "epoch"}


class Metrics(TrainerCallback):
    """Writes each step's figures to metrics.jsonl, the objective's own among them, and shows them.

    A resumed run goes on behind the line of its checkpoint: later lines are dropped, their steps come again.
    """

    def __init__(self, file: Path, plan: Plan, loss_lengths):
        self.path, self.plan, self.loss_lengths = file, plan, loss_lengths
        self.progress: _Bar | _Lines | None = None
        self.begun = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        keep_until(self.path, state.global_step)
        self.progress = _Bar(self.plan.steps) if messages().is_terminal else _Lines(self.plan.steps)

    def on_step_begin(self, args, state, control, **kwargs):
        self.begun = time.perf_counter()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:  # the summary at the end
            return
        samples = self.plan.step(state.global_step - 1)
        tokens = int(self.plan.lengths[samples].sum())
        seconds = time.perf_counter() - self.begun
        line = {
            "step": state.global_step,
            "epoch": round(self.plan.epochs(state.global_step), 4),
            "loss": logs["loss"],
            "grad_norm": float(logs["grad_norm"]),
            "lr": logs["learning_rate"],
            "tokens": tokens,
            "loss_tokens": int(self.loss_lengths[samples].sum()),
            "tokens_per_second": round(tokens / seconds, 1),
            "peak_memory_gib": round(_peak_memory() / 2**30, 3),
            **{name: value for name, value in logs.items() if name not in _TRAINERS},
        }
        line = as_json(line)
        append(self.path, line)
        self.progress.show(line)

    def close(self) -> None:
        """Also after an error: leave the terminal in order."""
        if self.progress:
            self.progress.close()


class _Bar:
    def __init__(self, steps: int):
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps · {task.fields[figures]}"),
            TimeRemainingColumn(),
            console=messages(),
        )
        self.task = self.progress.add_task("training", total=steps, figures="")
        self.progress.start()

    def show(self, line: dict[str, Any]) -> None:
        self.progress.update(self.task, completed=line["step"], figures=" · ".join(_shown(line)))

    def close(self) -> None:
        self.progress.stop()


class _Lines:
    """Where no person watches: about ten lines a run."""

    def __init__(self, steps: int):
        self.steps, self.every = steps, max(1, steps // 10)

    def show(self, line: dict[str, Any]) -> None:
        if line["step"] % self.every == 0 or line["step"] == self.steps:
            told = "  ".join([f"step {line['step']}/{self.steps}", *_shown(line)])
            print(told, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def as_json(figures: dict[str, Any]) -> dict[str, Any]:
    """The same, with None for numbers that are not finite, which JSON has not."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def _shown(line: dict[str, Any]) -> list[str]:
    if "skipped" in line:
        return [f"skipped: {line['skipped']}"]
    name = judged_by(line)
    if name == "reward":
        return [f"reward {line[name]:.3f}", f"answers of {line['completion_length']:.0f} tokens"]
    return [f"loss {line[name]:.4f}", f"{line['tokens_per_second']:.0f} tokens/s"]


def _peak_memory() -> int:
    """Bytes: the GPU's where there is one, else the process's largest resident size."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
