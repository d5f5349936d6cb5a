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

_MANIFEST = "manifest.json"


class WriteManifest(TrainerCallback):
    """After each save: make sure that all of it is on the disk, then say so in the manifest."""

    def on_save(self, args, state, control, **kwargs):
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        sizes = {}
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
            sizes[str(path.relative_to(directory))] = path.stat().st_size
        work = directory / f".{_MANIFEST}"
        work.write_text(json.dumps({"step": state.global_step, "sizes": sizes}, indent=2))
        work.replace(directory / _MANIFEST)


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint of a run, or None."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=_step_of)
    return next((path for path in reversed(found) if is_whole(path)), None)


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


def _step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
