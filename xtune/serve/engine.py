"""The engine: one thread that owns a model and writes the answers of all requests, token by token.

Between two tokens it takes at most one new request, so that those under way do not wait for many to be read. Each
adapter has a batch of its own; PEFT switches between them.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from xtune.model.load import is_out_of_memory
from xtune.serve.batch import Batch
from xtune.serve.sampling import Sampling, choose

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ROWS = 16
"""Answers that are written at once."""
WAITING = 64
"""Requests that may wait; others are sent away."""


class Busy(Exception):
    """Too many requests wait."""


@dataclass(eq=False)
class Job:
    """An answer to write. The two functions are called in the engine's thread.

    prompt      int64 [tokens]
    adapter     its name in the model; None: the model without any
    take        gets each token but the stop token; returns whether the answer is to end there
    end         called once, with "stop" or "length", or with what went wrong
    cancelled   set by anyone to end it, without a call of `end`
    """

    prompt: np.ndarray
    sampling: Sampling
    stop_ids: frozenset[int]
    take: Callable[[int], bool]
    end: Callable[[str | Exception], None]
    adapter: str | None = None
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.random = np.random.default_rng(self.sampling.seed)


class Engine:
    """Writes answers with `model` until `stop`. `submit` and `stop` may be called from any thread."""

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.model = model
        self._adapters = hasattr(model, "peft_config")
        base = model.get_base_model() if self._adapters else model
        # as the publisher would have it, and `generate` does
        penalty = getattr(base.generation_config, "repetition_penalty", None) or 1.0
        self._penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
        self._batches: dict[str | None, tuple[Batch, list[Job]]] = {}
        self._waiting: deque[Job] = deque()
        self._changed = Condition()
        self._stopped = False
        self.alone = False
        """Whether answers are written one after another, since the cache takes no second row: known with the first."""
        self._thread = Thread(target=self._work, name="xtune-engine", daemon=True)
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Let jobs be done. Raises Busy where too many wait already."""
        with self._changed:
            if len(self._waiting) + len(jobs) > WAITING:
                raise Busy
            self._waiting.extend(jobs)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after its token; what is under way never ends."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.set_device(self.model.device)
        with torch.inference_mode():
            while self._wait():
                if job := self._next():
                    self._join(job)
                for adapter, (batch, jobs) in list(self._batches.items()):
                    if jobs:
                        self._step(adapter, batch, jobs)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or self._waiting or any(jobs for _, jobs in self._batches.values())
            )
            return not self._stopped

    def _next(self) -> Job | None:
        """The job that has waited longest, where it can join now."""
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            batches = [batch for batch, _ in self._batches.values()]
            # one that takes no more may keep its state in the model itself, where another adapter's would mix with it
            if sum(map(len, batches)) >= ROWS or not all(batch.takes_more for batch in batches):
                return None
            return self._waiting.popleft() if self._waiting else None

    def _join(self, job: Job) -> None:
        if job.adapter not in self._batches:
            self._batches[job.adapter] = Batch(self.model), []
        batch, jobs = self._batches[job.adapter]
        prompt = torch.from_numpy(job.prompt.astype("int64")).to(self.model.device)
        try:
            with self._using(job.adapter):
                logits = batch.join(prompt)
            self.alone = self.alone or not batch.takes_more
            jobs.append(job)
        except Exception as error:
            _fail([job], error)
            return
        self._write(batch, jobs, [len(jobs) - 1], logits[None])

    def _step(self, adapter: str | None, batch: Batch, jobs: list[Job]) -> None:
        tokens = torch.tensor([job.tokens[-1] for job in jobs], device=self.model.device)
        try:
            with self._using(adapter):
                logits = batch.step(tokens)
        except Exception as error:
            batch.keep([])
            _fail(jobs, error)
            jobs.clear()
            return
        self._write(batch, jobs, range(len(jobs)), logits)

    def _write(self, batch: Batch, jobs: list[Job], rows, logits: torch.Tensor) -> None:
        """Choose a token for each of these rows, and let go of those that end with it."""
        ended = {row for row, job in enumerate(jobs) if job.cancelled}
        for row, scores in zip(rows, logits, strict=True):
            if row not in ended and self._ends(jobs[row], scores):
                ended.add(row)
        if ended:
            kept = [row for row in range(len(jobs)) if row not in ended]
            batch.keep(kept)
            jobs[:] = [jobs[row] for row in kept]

    def _ends(self, job: Job, logits: torch.Tensor) -> bool:
        try:
            if self._penalty:
                seen = torch.tensor([*job.prompt.tolist(), *job.tokens], device=logits.device)
                logits = self._penalty(seen[None], logits[None])[0]
            token = choose(logits, job.sampling, job.random)
            job.tokens.append(token)
            if token in job.stop_ids or job.take(token):
                job.end("stop")
            elif len(job.tokens) >= job.sampling.max_tokens:
                job.end("length")
            else:
                return False
        except Exception as error:
            _fail([job], error)
        return True

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        if not self._adapters:
            yield
        elif adapter is None:
            with self.model.disable_adapter():
                yield
        else:
            if self.model.active_adapter != adapter:
                self.model.set_adapter(adapter)
            yield


def _fail(jobs: list[Job], error: Exception) -> None:
    """End jobs with an error. The thread goes on: the next may well fit."""
    if not is_out_of_memory(error):
        traceback.print_exception(error)
    elif torch.cuda.is_available():
        torch.cuda.empty_cache()
    for job in jobs:
        job.end(error)
