"""Checkpoints to resume from: whole, or not there.

One is written beside the others, in a folder that nothing takes for a checkpoint, and moved to its place when all of it
is on the disk, with a manifest of every file's size and hash. What does not agree with its manifest was damaged
afterwards: it is named, and passed over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_model_param_count

from xtune.errors import UsageError
from xtune.home import stays_within, sync_folder, write_whole
from xtune.model.health import check_index
from xtune.ranks import rank, ranks
from xtune.recipe.schema import Train
from xtune.terminal import messages, progress
from xtune.training.deepspeed import zero_stage
from xtune.training.full_disk import until_there_is_room
from xtune.training.group import gathered, of_first, together
from xtune.training.optimizers import STATE
from xtune.training.pickled import tensors_only
from xtune.training.stopping import anyone_asked, begin_step, end_step

_MANIFEST = "manifest.json"
_BESIDE = ".writing"
_BLOCK = 16 << 20  # bytes that a thread hashes at once


class WholeCheckpoints(Trainer):
    """transformers' loop, whose checkpoints are whole or not there. The oldest are deleted by ours, once a new one is
    whole."""

    options: Train

    def _get_output_dir(self, trial):
        return str(Path(super()._get_output_dir(trial), _BESIDE))

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        with tensors_only(resume_from_checkpoint, self.is_deepspeed_enabled):
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def _load_rng_state(self, checkpoint):
        with tensors_only(checkpoint, deepspeed=False):
            super()._load_rng_state(checkpoint)

    def _save_checkpoint(self, model, trial):
        zero = self.args.deepspeed["zero_optimization"].get("stage", 0) if self.args.deepspeed else None
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        write = partial(super()._save_checkpoint, model, trial)
        about = {"step": self.state.global_step, "processes": ranks(), "zero": zero}
        keep = partial(_make_whole, checkpoint, about, self.options.keep_checkpoints)
        weights = get_model_param_count(model, trainable_only=True)
        needed = int(weights * (4 + STATE[self.options.optimizer]))
        wait = partial(until_there_is_room, what=checkpoint.name, folder=checkpoint.parent, needed=needed)
        if ranks() > 1 and (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            # They talk to each other while they write: one that fails there cannot try again alone.
            wait(partial(_begin, checkpoint, needed))
            write()
            keep()
        else:
            wait(partial(_write_all, checkpoint, write, keep))


def _write_all(checkpoint: Path, write: Callable[[], None], keep: Callable[[], None]) -> None:
    _begin(checkpoint)
    try:
        with together():
            write()
        keep()
    except Exception:
        remove_unfinished(checkpoint.parent)  # which takes room
        raise


def _begin(checkpoint: Path, needed: int = 0) -> None:
    """Remove what a killed run has left. Raises OSError where fewer bytes are free than needed."""
    with together():
        if rank() == 0:
            remove_unfinished(checkpoint.parent)
            checkpoint.parent.mkdir(exist_ok=True)
            if shutil.disk_usage(checkpoint.parent).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _make_whole(checkpoint: Path, about: dict[str, Any], keep: int) -> None:
    """Of a checkpoint that all processes have written beside: see that all is on the disk, and put it in its place.

    about   what else the manifest tells
    keep    whole checkpoints to keep
    """
    work = checkpoint.parent / _BESIDE / checkpoint.name
    with together():
        files = [str(file.relative_to(work)) for file in _files(work)] if rank() == 0 else None
    files = of_first(files)
    with together():
        mine = {name: _measured(work / name, sync=True) for name in files[rank() :: ranks()]}
    measured = {name: found for one in gathered(mine) for name, found in one.items()}
    with together():
        if rank() > 0:
            return
        about = {**about, "files": {name: measured[name] for name in files}}
        write_whole(work / _MANIFEST, json.dumps({**about, "sha256": _hash_of(about)}, indent=2))
        # What a run that resumes here goes on behind has to be there, too.
        for file in checkpoint.parents[1].glob("*.jsonl"):
            with open(file, "rb") as lines:
                os.fsync(lines.fileno())
        for folder in (work, *(path for path in work.rglob("*") if path.is_dir())):
            sync_folder(folder)
        if checkpoint.exists():  # a damaged one of the same step
            checkpoint.rename(work.with_name("damaged"))
        work.rename(checkpoint)
        sync_folder(checkpoint.parent)
        found = _by_step(checkpoint.parent)
        oldest = [path for path in found if fault_of(path, only_sizes=True) is None][-keep:][0]
        for path in found[: found.index(oldest)]:
            path.rename(work.with_name(path.name))  # so that none is there in part
        remove_unfinished(checkpoint.parent)


class SaveWhenStopped(TrainerCallback):
    """Where a signal has come, to any process of the run: saves after the step, and leaves."""

    def on_step_begin(self, args, state, control, **kwargs):
        begin_step()

    def on_step_end(self, args, state, control, **kwargs):
        if anyone_asked():
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if number := anyone_asked():
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            messages().print(f"Step {state.global_step} is saved in {checkpoint}.", soft_wrap=True)
        end_step(number)


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


def newest_checkpoint(checkpoints: Path, only_sizes: bool = False) -> Path | None:
    """The newest whole checkpoint of a run, or None. Damaged ones that are newer are told of."""
    for checkpoint in reversed(_by_step(checkpoints)):
        fault = fault_of(checkpoint, only_sizes)
        if fault is None:
            return checkpoint
        messages().print(f"{checkpoint} is damaged and passed over: {fault}", soft_wrap=True, markup=False)
    return None


def fault_of(checkpoint: Path, only_sizes: bool = False) -> str | None:
    """What is damaged in a checkpoint; None where it is whole.

    only_sizes   believe what the files hold, which takes long to read
    """
    try:
        about = json.loads((checkpoint / _MANIFEST).read_text())
        told, files = about.pop("sha256"), about["files"]
        if told != _hash_of(about):
            return f"{_MANIFEST} has other content than was written"
    except FileNotFoundError:
        return f"it has no {_MANIFEST}"
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    try:
        if stray := [name for name in files if not stays_within(name)]:
            return f"{_MANIFEST} names what lies outside of it: {stray[0]}"
        check_index(checkpoint)
        for name, written in files.items():
            if (size := (checkpoint / name).stat().st_size) != written["bytes"]:
                return f"{name} has {size} of {written['bytes']} bytes"
        if only_sizes:
            return None
        total = sum(written["bytes"] for written in files.values())
        with progress(f"checking {checkpoint.name}", total, "bytes") as advance:
            for name, written in files.items():
                if _measured(checkpoint / name, advance=advance) != written:
                    return f"{name} has other content than was written"
    except UsageError as error:
        return error.what
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    return None


def remove_unfinished(checkpoints: Path) -> None:
    """Delete what was being written, or deleted, when a run was killed."""
    beside = checkpoints / _BESIDE
    if beside.is_symlink():  # of somebody who sent the run: nothing may be written, or deleted, behind it
        beside.unlink()
    shutil.rmtree(beside, ignore_errors=True)


def _measured(
    file: Path, sync: bool = False, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Size and hash: SHA-256 of the hashes of its blocks, so that several cores can work on it."""

    def hash_of(start: int) -> bytes:
        block = os.pread(opened.fileno(), _BLOCK, start)
        advance(len(block))
        return hashlib.sha256(block).digest()

    with open(file, "rb") as opened, ThreadPoolExecutor() as threads:
        size = os.fstat(opened.fileno()).st_size
        synced = threads.submit(os.fsync, opened.fileno()) if sync else None
        blocks = threads.map(hash_of, range(0, size, _BLOCK))
        found = {"bytes": size, "sha256": hashlib.sha256(b"".join(blocks)).hexdigest()}
        if synced:
            synced.result()
    return found


def _hash_of(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """The largest first."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


def _by_step(checkpoints: Path) -> list[Path]:
    return sorted(checkpoints.glob("checkpoint-*"), key=_step_of)


def _step_of(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1
