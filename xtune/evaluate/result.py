"""What was measured: figures of one or several models on the same data and tasks, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from xtune.errors import UsageError
from xtune.home import write_whole


@dataclass(frozen=True)
class Figure:
    """A number, and its standard error where it has one."""

    value: float
    stderr: float | None = None

    def __str__(self) -> str:
        if isinstance(self.value, int):
            return f"{self.value:,}"
        return f"{self.value:.4f}" + ("" if self.stderr is None else f" ± {self.stderr:.4f}")


@dataclass(frozen=True)
class Measurement:
    """Of one source or task.

    samples   how many there are
    shots     of a task, solved examples in front of each question
    figures   metric to model to figure
    """

    name: str
    samples: int
    shots: int | None = None
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)

    def add(self, model: str, figures: Mapping[str, Figure]) -> None:
        """Put the figures of another model beside those that are there."""
        for metric, figure in figures.items():
            self.figures.setdefault(metric, {})[model] = figure


@dataclass(frozen=True)
class Evaluation:
    """All that was measured.

    models    name of each column to the path of the model
    options   by which it was measured
    """

    models: dict[str, str]
    options: dict[str, Any]
    measurements: list[Measurement]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON: {"models", "options", "measurements": [{"name", "samples", "shots", "figures": {metric:
        {model: {"value", "stderr"}}}}]}, without what is None."""
        return _plain(asdict(self))

    def table(self) -> str:
        """For people: what it was measured on, metric, and a figure of each model."""
        rows = [["", "", *self.models]]
        for one in self.measurements:
            name = f"{one.name} ({one.samples:,}{f', {one.shots}-shot' if one.shots else ''})"
            for metric, by_model in one.figures.items():
                rows.append([name, metric, *(str(by_model.get(model, "")) for model in self.models)])
                name = ""
        widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = [
                " " * (width - cell_len(cell)) * (place > 1)
                + cell
                + " " * (width - cell_len(cell)) * (place < 2)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_new(file: Path) -> None:
    """Raise UsageError where a file to be written exists, or its folder does not."""
    if file.exists():
        raise UsageError(f"{file} exists already.", where="--out", fix="Name another file.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}.", where="--out", fix="Make it, or name another.")


def write_result(evaluation: Evaluation, file: Path) -> None:
    """Write it as JSON."""
    write_whole(file, json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False) + "\n")


def free_name(run: Path) -> Path:
    """eval.json in a run, or eval-2.json … where earlier ones are."""
    number = 1
    while (file := run / (f"eval-{number}.json" if number > 1 else "eval.json")).exists():
        number += 1
    return file
