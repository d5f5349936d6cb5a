"""How likely the model found the answers before training: what DPO and KTO measure its way from.

Computed once, before the first step, when the model still is its own reference whatever the method, and kept in the
run directory: no second copy of the weights, and no second forward pass in each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from xtune.data.encoding.encode import Encoded
from xtune.errors import UsageError
from xtune.terminal import counting
from xtune.training.group import gathered
from xtune.training.layout import Layout, on_device
from xtune.training.log_probs import answer_log_probs

_PASS = 8  # texts


class Reference:
    """Log-probabilities of the two texts of each sample, summed over their labels: float64 [samples, 2], NaN where
    no step needs them; kept in a .npy file."""

    def __init__(self, file: Path):
        self.file = file
        self.values = np.zeros((0, 2))

    def of(self, samples: Sequence[int]) -> torch.Tensor:
        """float64 [samples, 2]."""
        return torch.from_numpy(self.values[list(samples)])


class MeasureReference(TrainerCallback):
    """Fills in the reference before the first step, each process its share; a resumed run reads it again.

    texts    the two texts of a sample
    needed   the samples of the run, those held out among them
    size     samples of the data set
    """

    def __init__(
        self,
        reference: Reference,
        texts: Callable[[int], list[Encoded]],
        layout: Layout,
        needed: Sequence[int],
        lengths: np.ndarray,
    ):
        self.reference, self.texts, self.layout = reference, texts, layout
        # Long ones first: what does not fit into memory shows at once.
        self.needed = sorted(needed, key=lambda sample: -lengths[sample])
        self.size = len(lengths)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        file = self.reference.file
        if state.global_step == 0:
            sharing = self.layout.processes
            values = self._measure(model, args.process_index // sharing, args.world_size // sharing)
            if state.is_world_process_zero:
                np.save(file, values)
            self.reference.values = values
        elif file.is_file():
            self.reference.values = np.load(file)
        else:
            raise UsageError(
                "The run lacks the log-probabilities from before its training.",
                where=str(file),
                fix="Train it from the start, or put the file back.",
            )

    @torch.no_grad()
    def _measure(self, model, process: int, processes: int) -> np.ndarray:
        training = model.training
        model.eval()
        values = np.full((self.size, 2), np.nan)
        size = _PASS // 2 * processes
        with counting("Measuring the model before training", "samples") as update:
            for start in range(0, len(self.needed), size):
                samples = self.needed[start : start + size][process::processes]
                texts = [text for sample in samples for text in self.texts(sample)]
                tensors = (
                    self.layout.collate(texts) if texts else self.layout.empty(self.texts(self.needed[0]))
                )
                log_probs, _ = answer_log_probs(model, on_device(tensors, model.device), len(texts))
                values[samples] = log_probs.double().view(-1, 2).cpu().numpy()
                update(min(start + size, len(self.needed)))
        model.train(training)
        for one in gathered(values):
            known = ~np.isnan(one)
            values[known] = one[known]
        return values
