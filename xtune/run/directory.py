"""A run directory: everything that is known of one training run, in files a person can open.

recipe.py           the resolved recipe, runnable as it is
environment.json    versions, device, when it started
state.json          whether it runs, or how it ended
data_files.json     hashes of the files that the data came from
data_report.json    what became of every record, and how long the samples are
held_out.jsonl      the loss on samples kept from training, at each checkpoint
metrics.jsonl       one line a step
bad_steps/          the samples of steps that were skipped
completions.jsonl   of online training: some answers of each step, with their rewards
loss.png            the curve
report.html         all of this for a browser, in one file
probe.json          prompts answered before and after
checkpoints/        to resume from
tensorboard/, ...   logs of other programs, by train.report_to
adapter/ or model/  the result, in PEFT's or Transformers' format
"""

from __future__ import annotations

import fcntl
import json
import platform
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.home import new_directory, write_whole
from xtune.ranks import ranks
from xtune.recipe.schema import Recipe
from xtune.recipe.write import recipe_source

PATIENCE = 30.0
"""Seconds to wait for another process that trains the same run."""


@dataclass(frozen=True)
class Run:
    """A training run on disk."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.py"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def result(self) -> Path | None:
        """The trained adapter or model; None while there is none."""
        return next((path for name in ("adapter", "model") if (path := self.path / name).is_dir()), None)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: step, epoch, loss, grad_norm, lr, tokens, loss_tokens,
        tokens_per_second, peak_memory_gib, and the objective's figures; of a skipped step also why, as `skipped`, and
        None for figures that are not finite."""
        return self._lines("metrics.jsonl")

    def held_out(self) -> list[dict[str, Any]]:
        """The lines of held_out.jsonl: step, loss, and the objective's figures."""
        return self._lines("held_out.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        *lines, _ = text.split("\n")  # the last may be what a killed run began to write
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise UsageError(
                f"A line of this file is not JSON: {error}", where=str(file), fix="Take that line out."
            ) from None

    def write_json(self, name: str, content: Any) -> None:
        """A JSON file of the run, whole or not at all."""
        write_whole(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file of the run, or None where it is not there."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def is_run(path: Path) -> bool:
    return (path / "recipe.py").is_file() and (path / "environment.json").is_file()


def new_run_path(recipe: Recipe, path: Path | None = None) -> Path:
    """Where a new run goes: `path`, or runs/NAME-DATE-TIME where you stand. Raises UsageError if it exists."""
    if path is None:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = Path("runs") / f"{recipe.name}-{stamp}"
    if path.exists():
        raise UsageError(
            f"The run directory {path} exists already.",
            where="--run-dir",
            fix=f"Name another, or continue it: xtune train --resume {path}",
        )
    return path


def create_run(recipe: Recipe, path: Path, files: Mapping[str, Any] | None = None) -> Run:
    """Make the directory of a new run, with these JSON files besides its own, whole or not at all."""
    with new_directory(path) as work:
        write_recipe(Run(work), recipe)
        for name, content in {"environment.json": _environment(), **(files or {})}.items():
            Run(work).write_json(name, content)
    return Run(path)


def write_recipe(run: Run, recipe: Recipe) -> None:
    """The recipe of a run, in the place of the one it had."""
    write_whole(run.recipe_file, recipe_source(recipe))


def check_seen(run: Run) -> None:
    """Raise UsageError where this process does not see the run directory that another has made."""
    if not is_run(run.path):
        raise UsageError(
            f"The run directory {run.path} is not to be seen from {socket.gethostname()}.",
            where="--run-dir",
            fix="Name a directory on a disk that all machines share.",
        )


def open_run(path: Path) -> Run:
    """An existing run. Raises UsageError where there is none."""
    if not path.exists():
        raise UsageError(
            f"There is no run {path}.",
            where="--resume",
            fix="If it was stopped while it read model or data, which comes first, start it again: "
            f"xtune train RECIPE --run-dir {path}",
        )
    if not is_run(path):
        raise UsageError(
            f"{path} is not a run directory.",
            where="--resume",
            fix="Name the directory that `xtune train` made, with recipe.py and environment.json inside.",
        )
    return Run(path)


@contextmanager
def alone_in(run: Run) -> Iterator[None]:
    """Within, no other process is in here for this run, as two would spoil its files. Waits for one that is about to
    end. Raises UsageError where it does not."""
    with open(run.path / ".lock", "w") as lock:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        "Another process trains this run.", where=str(run.path), fix="Wait for it, or end it."
                    ) from None
                time.sleep(0.1)
            except OSError:  # a file system without locks
                break
        yield


def versions() -> dict[str, str | None]:
    """Of xtune and what its results depend on; None for what is not installed."""
    packages = (
        "xtune",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "bitsandbytes",
        "tokenizers",
        "numpy",
        "deepspeed",
    )
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _environment() -> dict[str, Any]:
    import torch

    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": ranks(),
        "versions": versions(),
    }
