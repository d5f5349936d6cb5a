"""Checkpoints to resume from: whole, or not there.

Trainer writes a checkpoint file by file; the manifest written after the last one, with every file's size,
makes it whole. What has no manifest, or does not match it, was cut short and is passed over.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback

from xtune.errors import UsageError
from xtune.ranks import ranks
from xtune.recipe.schema import Train
from xtune.training.deepspeed import zero_stage
from xtune.training.group import together

_MANIFEST = "manifest.json"


class WriteManifest(TrainerCallback):
    """After each save by all processes: make sure that all of it is on the disk, then say so in the manifest.

    keep   whole checkpoints to keep; older ones are deleted, once the new one is whole
    """

    def __init__(self, keep: int):
        self.keep = keep

    def on_save(self, args, state, control, **kwargs):
        with together():  # all have written
            pass
        if not state.is_world_process_zero:
            return
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {}
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(directory))] = path.stat().st_size
        work = directory / f".{_MANIFEST}"
        zero = args.deepspeed["zero_optimization"].get("stage", 0) if args.deepspeed else None
        about = {"step": state.global_step, "processes": args.world_size, "zero": zero}
        work.write_text(json.dumps({**about, "sizes": sizes}, indent=2))
        work.replace(directory / _MANIFEST)
        found = _by_step(directory.parent)
        oldest = [path for path in found if is_whole(path)][-self.keep :][0]
        for path in found[: found.index(oldest)]:
            shutil.rmtree(path, ignore_errors=True)


def processes_of(checkpoint: Path, train: Train) -> int:
    """How many processes wrote a whole checkpoint. Raises UsageError where those that run now cannot go on from it: it
    is of another stage of ZeRO, or ZeRO spread the state of another optimizer than AdamW over another number."""
    about = json.loads((checkpoint / _MANIFEST).read_text())
    before, processes = about.get("zero"), about.get("processes", 1)
    if before != zero_stage(train):
        how = "without DeepSpeed" if before is None else f"by DeepSpeed, ZeRO stage {before}"
        raise UsageError(
            f"The run's checkpoints were written {how}.",
            where=str(checkpoint),
            fix="Go on as it began, with its train.deepspeed.",
        )
    # DeepSpeed's converter knows the names of AdamW's state only.
    if before is not None and processes != ranks() and train.optimizer != "adamw":
        raise UsageError(
            f"DeepSpeed cannot deal the state of {train.optimizer}, written by {processes} processes, to {ranks()}.",
            where=str(checkpoint),
            fix=f"Go on with --nproc {processes}, as before.",
        )
    return processes


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    return next((path for path in reversed(_by_step(checkpoints)) if is_whole(path)), None)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there in its full size."""
    try:
        sizes = json.loads((checkpoint / _MANIFEST).read_text())["sizes"]
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def remove_partial(checkpoints: Path) -> None:
    """Delete checkpoints that were cut short, which no run can use."""
    for path in checkpoints.glob("checkpoint-*"):
        if not is_whole(path):
            shutil.rmtree(path, ignore_errors=True)


def _by_step(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("checkpoint-*"), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
