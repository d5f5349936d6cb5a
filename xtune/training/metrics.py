"""What a step tells: a line in metrics.jsonl and the progress bar, and what train.report_to names."""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from xtune.data.batches.plan import Plan
from xtune.run.curve import judged_by
from xtune.run.memory import largest_resident_size
from xtune.terminal import messages, progress
from xtune.training.json_lines import append, keep_until
from xtune.training.report_to import Logs

_TRAINERS = {"loss", "grad_norm", "learning_rate", "epoch"}


class Metrics(TrainerCallback):
    """Writes each step's figures to metrics.jsonl, the objective's own among them, and shows them.

    A resumed run goes on behind the line of its checkpoint: later lines are dropped, their steps come again.

    logs   of other programs, that get the same figures
    """

    def __init__(self, file: Path, plan: Plan, loss_lengths, logs: Logs):
        self.path, self.plan, self.loss_lengths, self.logs = file, plan, loss_lengths, logs
        self.shown = ExitStack()
        self.begun = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        keep_until(self.path, state.global_step)
        self.logs.begin(state.global_step)
        self.advance = self.shown.enter_context(progress("training", self.plan.steps, "steps"))
        self.advance(state.global_step)

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
        self.logs.write(state.global_step, line)
        self.advance(1, " · ".join(_shown(line)))
        steps = self.plan.steps
        if not messages().is_terminal and state.global_step in {steps, *range(0, steps, max(1, steps // 10))}:
            # Where no person watches: about ten lines a run.
            told = "  ".join([f"step {state.global_step}/{steps}", *_shown(line)])
            print(told, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Also after an error: leave the terminal in order, and the logs whole."""
        self.shown.close()
        self.logs.close()


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
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else largest_resident_size()
