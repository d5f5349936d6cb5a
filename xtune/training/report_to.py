"""train.report_to: the figures of a run in other programs too, each by its own API.

They get what metrics.jsonl and held_out.jsonl get. Where and how each keeps it, its own environment variables decide:
WANDB_MODE, WANDB_PROJECT, SWANLAB_MODE, TRACKIO_SPACE_ID ... A run that goes on does so in the same log. What fails
there is told once, and the run trains on without.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.ranks import rank
from xtune.recipe.schema import Recipe
from xtune.terminal import messages

Figures = dict[str, float]


@dataclass(frozen=True)
class Log:
    """One program's log of a run that is open.

    write   takes the step and its figures
    """

    write: Callable[[int, Figures], None]
    close: Callable[[], None]


@dataclass(frozen=True)
class Start:
    """A run whose log is opened, to go on behind a step."""

    recipe: Recipe
    path: Path
    step: int

    @property
    def id(self) -> str:
        """The same for a run that goes on, and another for each run."""
        return hashlib.sha256(str(self.path.absolute()).encode()).hexdigest()[:16]

    @property
    def config(self) -> dict[str, Any]:
        """The recipe, as plain JSON."""
        return self.recipe.model_dump(mode="json")


def check_report_to(names: Sequence[str]) -> None:
    """Raise UsageError where the package of one is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"{name} is not installed.", where="train.report_to", fix=f"pip install 'xtune[{name}]'"
            )


class Logs:
    """The logs that a recipe names, of the run in a directory. Of several processes only the first keeps them."""

    def __init__(self, recipe: Recipe, path: Path):
        self.recipe, self.path = recipe, path
        self.open: dict[str, Log] = {}

    def begin(self, step: int) -> None:
        """Open them, to go on behind a step."""
        for name in self.recipe.train.report_to if rank() == 0 else ():
            try:
                with redirect_stdout(sys.stderr):  # some of them greet there
                    self.open[name] = _OPEN[name](Start(self.recipe, self.path, step))
            except Exception as error:  # of another program, of whatever kind
                _tell(name, error)

    def write(self, step: int, line: dict[str, Any]) -> None:
        """Hand on those of a line's figures that are numbers."""
        figures = {
            name: value
            for name, value in line.items()
            if isinstance(value, int | float) and name.split("/")[-1] != "step"
        }
        self._each(lambda log: log.write(step, figures))

    def close(self) -> None:
        """Let them write what they still have."""
        self._each(lambda log: log.close())
        self.open.clear()

    def _each(self, act: Callable[[Log], None]) -> None:
        for name, log in list(self.open.items()):
            try:
                with redirect_stdout(sys.stderr):
                    act(log)
            except Exception as error:
                del self.open[name]
                _tell(name, error)


def _tell(name: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:300]
    messages().print(f"{name} keeps no log of this run from here on: {reason}", soft_wrap=True, markup=False)


def _tensorboard(start: Start) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(start.path / "tensorboard"), purge_step=start.step + 1 if start.step else None)

    def write(step: int, figures: Figures) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Log(write, writer.close)


def _wandb(start: Start) -> Log:
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", "xtune"),
        name=start.path.name,
        id=os.environ.get("WANDB_RUN_ID", start.id),
        resume="allow",
        dir=str(start.path),
        config=start.config,
        settings=wandb.Settings(console="off"),  # what is printed stays here
    )
    return Log(lambda step, figures: run.log(figures, step=step), run.finish)


def _swanlab(start: Start) -> Log:
    import swanlab

    run = swanlab.init(
        project=os.environ.get("SWANLAB_PROJ_NAME", "xtune"),
        experiment_name=start.path.name,
        id=start.id,
        resume="allow",
        logdir=str(start.path / "swanlab"),
        config=start.config,
    )
    return Log(lambda step, figures: run.log(figures, step=step), swanlab.finish)


def _trackio(start: Start) -> Log:
    import trackio

    run = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", "xtune"),
        name=f"{start.path.name}-{start.id[:4]}",
        resume="allow",
        config=start.config,
    )
    return Log(lambda step, figures: run.log(figures, step=step), run.finish)


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "swanlab": _swanlab, "trackio": _trackio}
