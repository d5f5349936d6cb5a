"""The loss on samples that were kept from training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainerCallback

from xtune.data.batches.collate import collate
from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import NO_LABEL
from xtune.terminal import messages
from xtune.training.metrics import truncate
from xtune.training.sft import MicroBatches, summed_loss


class HeldOutLoss(TrainerCallback):
    """Measures it before training, at each checkpoint and at the end: a line each in a file, {"step", "loss"}.

    A resumed run goes on behind the line of its checkpoint.
    """

    def __init__(self, dataset: Dataset, samples: Sequence[int], batches: MicroBatches, file: Path):
        self.dataset, self.batches, self.file = dataset, batches, file
        # Like lengths together: rows that are padded then are padded little.
        self.samples = sorted(samples, key=dataset.lengths.__getitem__)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step:
            truncate(self.file, state.global_step)
        elif self.samples:
            self.file.unlink(missing_ok=True)
            self._measure(model, 0)

    def on_save(self, args, state, control, model=None, **kwargs):
        if self.samples:
            self._measure(model, state.global_step)

    @torch.no_grad()
    def _measure(self, model, step: int) -> None:
        training, total, count = model.training, 0.0, 0
        model.eval()
        size = 8
        for start in range(0, len(self.samples), size):
            samples = [self.dataset[index] for index in self.samples[start : start + size]]
            batch = collate(samples, packing=self.batches.packing, pad_id=self.batches.pad_id)
            batch = {
                name: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for name, value in batch.items()
            }
            labels = batch.pop("labels")
            total += summed_loss(model, labels, batch)[0].item()
            count += int((labels[:, 1:] != NO_LABEL).sum())
        model.train(training)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "loss": total / count}) + "\n")
        messages().print(f"held out: loss {total / count:.4f} after step {step}")
