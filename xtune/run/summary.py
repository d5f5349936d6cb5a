"""A run in a few figures: what lists, comparisons and reports of runs begin with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from xtune.errors import UsageError
from xtune.recipe.lines import read_written
from xtune.recipe.literals import literal_sections
from xtune.recipe.schema import Recipe
from xtune.run import state
from xtune.run.curve import judged_by
from xtune.run.directory import Run, is_run

Line = dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """All that is read of a run. `problems` are files that are damaged, each with what is wrong; what they hold is
    taken for empty."""

    run: Run
    recipe: Recipe
    state: dict[str, Any]
    environment: dict[str, Any]
    lines: list[Line]
    held_out: list[Line]
    data: dict[str, Any]
    probes: list[dict[str, Any]]
    problems: list[str]

    @cached_property
    def learnt(self) -> list[Line]:
        """The lines of steps that were not skipped."""
        return [line for line in self.lines if "skipped" not in line]

    @property
    def judged_by(self) -> str:
        """The figure that says how the run goes."""
        return judged_by(self.lines[0]) if self.lines else "loss"

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(step, figure) of the steps that have it, finite."""
        return points(self.lines, name)

    @property
    def seconds(self) -> float:
        """In steps of training, without what is between them."""
        return sum(
            line.get("tokens", 0) / line["tokens_per_second"]
            for line in self.lines
            if line.get("tokens_per_second")
        )


@dataclass(frozen=True)
class Summary:
    """See `Facts`; first and last are means over a tenth of the steps, at least one and at most ten.

    judged_by   "loss" or "reward": what first, last and the held-out figures are
    bytes       on the disk
    """

    path: str
    name: str
    started: str
    model: str
    method: str
    objective: str
    state: str
    steps: int
    of: int | None
    judged_by: str
    first: float | None
    last: float | None
    held_out_first: float | None
    held_out_last: float | None
    tokens_per_second: float | None
    peak_memory_gib: float | None
    seconds: float
    skipped: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def points(lines: Sequence[Line], name: str) -> list[tuple[int, float]]:
    """(step, figure) of the lines that have it, finite."""
    return [
        (line["step"], float(line[name]))
        for line in lines
        if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    ]


def read_recipe(run: Run) -> Recipe:
    """A run's recipe, read as values: nothing in it is run. Raises UsageError where it is damaged."""
    try:
        written = read_written(str(run.recipe_file))
        if written.faults:
            raise ValueError(written.faults[0].text)
        sections = literal_sections(written.stated)
        return Recipe.model_validate({key: sections[key] for key in sections if key in Recipe.model_fields})
    except (OSError, ValueError) as error:  # pydantic's is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"The run's recipe cannot be read: {reason}",
            where=str(run.recipe_file),
            fix="Put it back as the run wrote it.",
        ) from None


def read_facts(path: Path) -> Facts:
    """What there is to know of a run. Raises UsageError where it is none, or its recipe is damaged."""
    if not is_run(path):
        raise UsageError(
            f"{path} is not a run directory." if path.exists() else f"There is no run {path}.",
            where=str(path),
            fix="Name the directory that `xtune train` made; `xtune runs` lists those under runs/.",
        )
    run, problems = Run(path), []

    def read(what, kind: type):
        try:
            found = what()
            if found is None or isinstance(found, kind):
                return found or kind()
            problems.append(f"a file of {path} does not hold what it should")
        except (UsageError, OSError, ValueError, TypeError) as error:
            problems.append(f"{getattr(error, 'where', None) or path}: {' '.join(str(error).split())[:200]}")
        return kind()

    return Facts(
        run,
        read_recipe(run),
        read(lambda: state.read(run), dict) or {"state": "unknown"},
        read(lambda: run.read_json("environment.json"), dict),
        _with_step(read(run.metrics, list)),
        _with_step(read(run.held_out, list)),
        read(lambda: run.read_json("data_report.json"), dict),
        [row for row in read(lambda: run.read_json("probe.json"), list) if isinstance(row, dict)],
        problems,
    )


def summarise(facts: Facts) -> Summary:
    """A run in figures."""
    recipe, name = facts.recipe, facts.judged_by
    curve = [value for _, value in points(facts.learnt, name)]
    held_out = [value for _, value in points(facts.held_out, name)]
    speeds = [value for _, value in facts.curve("tokens_per_second")]
    memory = [value for _, value in facts.curve("peak_memory_gib")]
    part = ends(len(curve))
    return Summary(
        path=str(facts.run.path),
        name=facts.run.path.resolve().name,
        started=str(facts.environment.get("started", "")),
        model=recipe.model.path,
        method=recipe.method.kind,
        objective=recipe.train.objective.kind,
        state=str(facts.state.get("state")),
        steps=facts.lines[-1]["step"] if facts.lines else 0,
        of=facts.state.get("steps") or recipe.train.steps,
        judged_by=name,
        first=sum(curve[:part]) / part if curve else None,
        last=sum(curve[-part:]) / part if curve else None,
        held_out_first=held_out[0] if held_out else None,
        held_out_last=held_out[-1] if held_out else None,
        tokens_per_second=median(speeds) if speeds else None,
        peak_memory_gib=max(memory, default=None),
        seconds=facts.seconds,
        skipped=len(facts.lines) - len(facts.learnt),
        bytes=bytes_in(facts.run.path),
    )


def ends(steps: int) -> int:
    """How many steps at each end of a curve are averaged."""
    return min(10, max(1, steps // 10))


def find_runs(folder: Path) -> tuple[list[Facts], list[str]]:
    """The runs in a folder, or the one that it is, by the time of their start; and which directories in it are passed
    over, with the reason. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}.",
            where=str(folder),
            fix="`xtune train` makes runs/ where you stand; name the folder that holds your runs: xtune runs DIR",
        )
    found, passed = [], []
    for path in [folder] if is_run(folder) else sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        try:
            facts = read_facts(path)
        except (UsageError, OSError) as error:
            passed.append(f"{path}: {getattr(error, 'what', error)}")
            continue
        found.append(facts)
        passed += facts.problems
    return sorted(found, key=lambda facts: str(facts.environment.get("started", ""))), passed


def _with_step(lines: list) -> list[Line]:
    return [line for line in lines if isinstance(line, dict) and isinstance(line.get("step"), int)]


def bytes_in(path: Path) -> int:
    """Of all files in a folder."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.lstat().st_size
        except OSError:  # gone meanwhile
            continue
    return total
