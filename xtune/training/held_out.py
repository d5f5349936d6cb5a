"""The loss on samples that were kept from training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

from xtune.data.batches.plan import Plan
from xtune.run.curve import judged_by
from xtune.terminal import messages
from xtune.training.batches import Batches, passes_without_learning
from xtune.training.group import of_first
from xtune.training.json_lines import append, has_step, keep_until
from xtune.training.layout import on_device
from xtune.training.metrics import as_json
from xtune.training.report_to import Logs
from xtune.training.trainer import Sums, add, average


class HeldOutLoss(TrainerCallback):
    """Measures it before training, at each checkpoint and at the end: a line each in a file, {"step", "loss"} and the
    objective's figures. Each of several processes takes its share.

    A resumed run goes on behind the line of its checkpoint, which it measures first if it was stopped before that.
    """

    def __init__(self, samples: Sequence[int], plan: Plan, batches: Batches, file: Path, logs: Logs):
        self.samples, self.plan, self.batches, self.file, self.logs = samples, plan, batches, file, logs

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.is_world_process_zero:
            keep_until(self.file, state.global_step)
        if not of_first(has_step(self.file, state.global_step)):
            self._measure_if_due(model, args, state)

    def on_save(self, args, state, control, model=None, **kwargs):
        self._measure_if_due(model, args, state)

    def _measure_if_due(self, model, args, state) -> None:
        # A signal saves at any step.
        if self.samples and state.global_step in (
            *range(0, state.max_steps, args.save_steps),
            state.max_steps,
        ):
            self._measure(model, args, state)

    @torch.no_grad()
    def _measure(self, model, args, state) -> None:
        training = model.training
        model.eval()
        sums: Sums = {}
        sharing = self.batches.layout.processes
        process, processes = args.process_index // sharing, args.world_size // sharing
        passes = passes_without_learning(self.plan, self.samples, processes)[process::processes]
        for number, samples in enumerate(passes):
            batch = self.batches.of(samples) | ({"share": passes} if number == 0 else {})
            loss = self.batches.objective.loss(model, on_device(batch, model.device))
            weight = self.batches.objective.weight(samples)
            figures = {"loss": (loss.total, weight), **loss.figures}
            add(sums, {name: (float(total), count) for name, (total, count) in figures.items()})
        figures = average(sums)
        model.train(training)
        if state.is_world_process_zero:
            line = as_json({"step": state.global_step, **figures})
            append(self.file, line)
            self.logs.write(state.global_step, {f"held_out/{name}": value for name, value in line.items()})
            name = judged_by(figures)
            messages().print(f"held out: {name} {figures[name]:.4f} after step {state.global_step}")
