"""How likely the model found the answers before training: what DPO and KTO measure its way from.

Computed once, before the first step, when the model still is its own reference whatever the method, and kept in the
run directory: no second copy of the weights, and no second forward pass in each step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback

from xtune.data.batches.plan import Plan
from xtune.data.encoding.encode import Encoded
from xtune.errors import UsageError
from xtune.home import write_whole
from xtune.model.log_probs import answer_log_probs
from xtune.terminal import progress
from xtune.training.batches import passes_without_learning
from xtune.training.group import gathered
from xtune.training.layout import Layout, on_device


class Reference:
    """Log-probabilities of the two texts of each sample, summed over their labels: float64 [samples, 2], NaN where
    no step needs them.

    In the run directory they are kept by what the texts are, so that they hold for any other plan of the same data.
    """

    def __init__(self, file: Path, samples: int):
        self.file = file
        self.values = np.full((samples, 2), np.nan)

    def of(self, samples: Sequence[int]) -> torch.Tensor:
        """float64 [samples, 2]."""
        return torch.from_numpy(self.values[list(samples)])

    def read(self, keys: dict[int, int]) -> list[int]:
        """Take what the file has of the samples, by their keys. Returns the samples that it lacks."""
        with np.load(self.file) as kept:
            known = dict(zip(kept["keys"].tolist(), kept["values"], strict=True))
        for sample, key in keys.items():
            self.values[sample] = known.get(key, np.nan)
        return [sample for sample, key in keys.items() if key not in known]

    def write(self, keys: dict[int, int]) -> None:
        """Keep those of the samples."""
        content = BytesIO()
        np.savez(content, keys=np.array(list(keys.values()), np.uint64), values=self.values[list(keys)])
        write_whole(self.file, content.getvalue())


class MeasureReference(TrainerCallback):
    """Fills in the reference before the first step, each process its share; a resumed run reads it again, and measures
    what other data or more steps need besides.

    texts       the two texts of a sample
    needed      the samples of the run, those held out among them
    plan        of the run
    base        whether the model with its adapter off is the one before training
    """

    def __init__(
        self,
        reference: Reference,
        texts: Callable[[int], list[Encoded]],
        layout: Layout,
        needed: Sequence[int],
        plan: Plan,
        base: bool,
    ):
        self.reference, self.texts, self.layout = reference, texts, layout
        self.needed, self.plan, self.base = needed, plan, base

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        reference, off = self.reference, nullcontext()
        keys = {sample: _key(self.texts(sample)) for sample in self.needed}
        missing = self.needed
        if state.global_step:
            if not reference.file.is_file():
                raise UsageError(
                    "The run lacks the log-probabilities from before its training.",
                    where=str(reference.file),
                    fix="Train it from the start, or put the file back.",
                )
            missing = reference.read(keys)
            if missing and not self.base:
                raise UsageError(
                    f"{len(missing)} samples were not in the run before, and the model that it began with, which they "
                    "are to be measured by, is gone.",
                    where=str(reference.file),
                    fix="Resume with the data and steps that the run had, or start a new one.",
                )
            if missing:
                off = extract_model_from_parallel(model).disable_adapter()
        if missing:
            with off:
                self._measure(model, missing, args.process_index, args.world_size)
            if state.is_world_process_zero:
                reference.write(keys)

    @torch.no_grad()
    def _measure(self, model, needed: Sequence[int], process: int, processes: int) -> None:
        sharing = self.layout.processes
        process, processes = process // sharing, processes // sharing
        training = model.training
        model.eval()
        values = self.reference.values
        passes = passes_without_learning(self.plan, needed, processes)[process::processes]
        with progress("measuring the model before training", len(needed), "samples") as advance:
            for samples in reversed(passes):  # what does not fit into memory shows at once
                texts = [text for sample in samples for text in self.texts(sample)]
                tensors = self.layout.collate(texts) if texts else self.layout.empty(self.texts(needed[0]))
                log_probs, _ = answer_log_probs(model, on_device(tensors, model.device), len(texts))
                values[samples] = log_probs.double().view(-1, 2).cpu().numpy()
                advance(len(samples) * processes)
        model.train(training)
        for one in gathered(values[needed]):
            known = ~np.isnan(one).any(axis=1)
            values[np.array(needed)[known]] = one[known]


def _key(texts: Sequence[Encoded]) -> int:
    """Of what the texts are, 64 bits."""
    content = b"".join(part.tobytes() for text in texts for part in (text.input_ids, text.labels))
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
