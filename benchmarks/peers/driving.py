"""What the drivers share: the task, the samples, a clock for transformers' Trainer, and the report.

A driver is run by its peer's own Python as `python run_PEER.py TASK`. TASK is a JSON file written by speed.py; the
driver trains as it says and prints the report as its last line.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trl_options import SAME_AS_XTUNE

VERSIONS = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "trl",
    "unsloth",
    "llamafactory",
    "ms-swift",
    "torchtune",
)


@dataclass(frozen=True)
class Task:
    """What a contestant is to train.

    peer, settings  who, and in which of its settings
    model, data     directory of the model; file of alpaca rows
    rows            JSON Lines of the samples, encoded, in the order of training: input_ids, labels (-100: no loss)
    work            an empty directory
    begun           time.time() when the process was started
    """

    peer: str
    settings: dict[str, Any]
    model: str
    data: str
    rows: str
    work: str
    begun: float
    steps: int
    batch_size: int
    max_length: int
    rank: int
    alpha: int
    lr: float
    seed: int

    @property
    def dtype(self) -> str:
        """Type of the model's weights."""
        return self.settings.get("dtype", "float32")

    @property
    def micro_batch_size(self) -> int:
        """Samples a forward pass."""
        return self.settings.get("samples_a_pass", self.batch_size)


def read_task() -> Task:
    return Task(**json.loads(Path(sys.argv[1]).read_text()))


def read_rows(task: Task) -> list[dict[str, list[int]]]:
    """The samples of all steps. With the setting by_length, steps are of samples of about the same length, as a
    trainer that groups by length would take them from these."""
    rows = [json.loads(line) for line in Path(task.rows).read_text().splitlines()]
    if not task.settings.get("by_length"):
        return rows
    rows.sort(key=lambda row: len(row["input_ids"]))
    steps = [rows[start : start + task.batch_size] for start in range(0, len(rows), task.batch_size)]
    random.Random(task.seed).shuffle(steps)
    return [row for step in steps for row in step]


def tokens_of_steps(task: Task, rows: list[dict[str, list[int]]]) -> list[int]:
    """Tokens of each step's samples, without padding."""
    sizes = [len(row["input_ids"]) for row in rows]
    return [sum(sizes[start : start + task.batch_size]) for start in range(0, len(sizes), task.batch_size)]


def training_arguments(task: Task) -> dict[str, Any]:
    """Arguments of transformers' Trainer."""
    return SAME_AS_XTUNE | {
        "output_dir": f"{task.work}/output",
        "max_steps": task.steps,
        "per_device_train_batch_size": task.micro_batch_size,
        "gradient_accumulation_steps": task.batch_size // task.micro_batch_size,
        "learning_rate": task.lr,
        "lr_scheduler_type": "constant",
        "seed": task.seed,
        "bf16": task.dtype == "bfloat16",
    }


@dataclass
class Record:
    """When each step ended (time.time()), and its loss."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def callback(self):
        """A callback of transformers' Trainer that fills it in."""
        from transformers import TrainerCallback

        record = self

        class Clock(TrainerCallback):
            def on_step_end(self, *_, **__):
                record.ends.append(time.time())

            def on_log(self, args, state, control, logs=None, **_):
                if "loss" in logs:
                    record.losses.append(float(logs["loss"]))

        return Clock()


def report(task: Task, record: Record, tokens: list[int]) -> None:
    """Print what the steps took: seconds from the end of one to the end of the next, tokens without padding."""
    starts = [task.begun, *record.ends]
    content = {
        "seconds": [end - start for start, end in zip(starts, record.ends, strict=False)],
        "tokens": tokens,
        "losses": record.losses,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: found for name in VERSIONS if (found := _version(name))},
    }
    print("\n" + json.dumps(content))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
