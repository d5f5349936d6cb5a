"""Finding tasks of lm-evaluation-harness, and the user's own in its format, with their data."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.terminal import messages

SEED = 1234
"""Of the choice of solved examples, as the harness has it."""

Tasks = dict[str, Any]
"""As TaskManager.load gives them: {"tasks": {name: Task}, "groups": ...}."""


def load_tasks(
    names: Sequence[str], include: str | None = None, shots: int | None = None, *, download: bool = False
) -> Tasks:
    """Tasks, groups of them, and .yaml files that describe one, with their data. A relative path to data in a file of
    the user's starts at its folder, or else where one stands.

    shots      solved examples in front of each question, but of tasks that say 0 themselves
    download   whether data may be fetched from the hub

    Raises UsageError where lm_eval is missing, a task is unknown, or its data is not here.
    """
    _quiet()
    folder = _folder(include)
    with network(download), redirect_stdout(StringIO()):
        from lm_eval.tasks import TaskManager

        random.seed(0)  # some tasks shuffle their data as it is loaded
        manager = TaskManager(include_path=folder, include_defaults=False)  # there are thousands of others
        if not all(name in manager.all_tasks or Path(name).is_file() for name in names):
            messages().print("looking up the tasks of lm-evaluation-harness")
            manager = TaskManager(include_path=folder)
        loaded: Tasks = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in names:
            for kind, found in _load(manager, name, folder).items():
                loaded[kind].update(found)
    for name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise UsageError(
                f"The task {name} runs programs that the model writes, which is not done here.",
                where="--tasks",
                fix="Name another.",
            )
        usual = task.get_config("num_fewshot")
        if usual is None or (shots is not None and usual != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _load(manager: Any, name: str, folder: Path | None) -> Tasks:
    """One task. Raises UsageError where that is not possible."""
    entry = manager.task_index.get(name)
    file = Path(name).expanduser().resolve() if entry is None else entry.yaml_path
    if entry is None and not file.is_file():
        near = get_close_matches(name, manager.all_tasks, n=1)
        own = sorted(one for one, known in manager.task_index.items() if _within(known.yaml_path, folder))
        raise UsageError(
            f"There is no task {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""),
            where="--tasks",
            fix=f"In {folder} there are: {', '.join(own) or 'none that can be read'}."
            if folder
            else "`lm-eval ls tasks` lists them; your own: a .yaml file, or --include DIR.",
        )
    spec = name if entry else str(file)
    is_own = entry is None or _within(file, folder)
    try:
        try:
            with _standing_in(file.parent if is_own and file else None):
                return manager.load([spec])
        except FileNotFoundError:
            return manager.load([spec])
    except Exception as error:  # the harness and the library of data sets raise many kinds
        raise _not_loaded(name, error, is_own) from error


def _not_loaded(name: str, error: Exception, is_own: bool) -> UsageError:
    from datasets.exceptions import DatasetNotFoundError

    told = " ".join(str(error).split())[:300]
    if isinstance(error, FileNotFoundError) and is_own:
        return UsageError(
            f"The data of the task {name} is not there: {told}", where=name, fix="Put the path right."
        )
    if (
        isinstance(error, (ConnectionError, DatasetNotFoundError, FileNotFoundError))
        or "offline" in told.lower()
    ):
        return UsageError(
            f"The data of the task {name} is not on this machine: {told}",
            where="--tasks",
            fix="Add --download to fetch it from the hub, which needs a network.",
        )
    return UsageError(
        f"The task {name} cannot be loaded: {type(error).__name__}: {told}",
        where="--tasks",
        fix="Put its file right; lm-evaluation-harness describes the format.",
    )


def _folder(include: str | None) -> Path | None:
    if include is None:
        return None
    folder = Path(include).expanduser().resolve()
    if not folder.is_dir():
        raise UsageError(f"There is no folder {include}.", where="--include", fix="Check the path.")
    return folder


def _within(file: Path | None, folder: Path | None) -> bool:
    return file is not None and folder is not None and Path(file).resolve().is_relative_to(folder)


def _quiet() -> None:
    """Raise UsageError where lm_eval is missing; keep what it tells to itself."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # for the standard error; it is a short computation
    try:
        import datasets
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"Tasks need lm-evaluation-harness, and {error.name} is not installed.",
            where="--tasks",
            fix='pip install "xtune[eval]"',
        ) from None
    datasets.disable_progress_bars()
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def network(allowed: bool) -> Iterator[None]:
    """Within, the hub is asked for nothing unless that is allowed, as with HF_HUB_OFFLINE=1."""
    import datasets.config
    import evaluate.config
    import huggingface_hub.constants

    settings = [
        (datasets.config, "HF_HUB_OFFLINE"),
        (evaluate.config, "HF_EVALUATE_OFFLINE"),
        (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    ]
    before = [getattr(module, name) for module, name in settings]
    for (module, name), offline in zip(settings, before, strict=True):
        setattr(module, name, offline or not allowed)
    try:
        yield
    finally:
        for (module, name), offline in zip(settings, before, strict=True):
            setattr(module, name, offline)


@contextmanager
def _standing_in(folder: Path | None) -> Iterator[None]:
    """Within, relative paths start at a folder."""
    before = os.getcwd()
    os.chdir(folder or before)
    try:
        yield
    finally:
        os.chdir(before)
