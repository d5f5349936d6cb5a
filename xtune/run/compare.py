"""Several runs side by side: what their recipes say otherwise, their figures, their curves in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtune.recipe.schema import Recipe
from xtune.run.report import figures, page, write_page
from xtune.run.report_charts import Chart, Curve, lay_out, running_mean, smooth
from xtune.run.summary import Facts, points, summarise

MOST = 6
"""Runs that one picture can tell apart."""

Row = tuple[str, list[str]]
"""A name, and a value for each run."""


def differences(recipes: Sequence[Recipe]) -> list[Row]:
    """The keys whose values are not the same in all recipes, with each one's value as it is written in a recipe."""
    flat = [_flat(recipe.model_dump(mode="json", exclude={"name"})) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    rows = [(key, [repr(one[key]) if key in one else "–" for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def side_by_side(runs: Sequence[Facts]) -> list[Row]:
    """The key figures of runs, and how each ended."""
    summaries = [summarise(facts) for facts in runs]
    found = [dict(figures(summary)) for summary in summaries]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [(name, [one.get(name, "–") for one in found]) for name in names]
    return [("state", [summary.state for summary in summaries]), *rows]


def names(runs: Sequence[Facts]) -> list[str]:
    """What to call each: its directory's name, with as much of its path as tells it from the others."""
    paths = [facts.run.path.resolve().parts for facts in runs]
    for parts in range(1, max(map(len, paths)) + 1):
        found = ["/".join(path[-parts:]) for path in paths]
        if len(set(found)) == len(found):
            break
    return found


def write_comparison(runs: Sequence[Facts], file: Path) -> None:
    """Write a page with all of it, whole or not at all."""
    shown = page(
        "compare.html.jinja",
        charts=_charts(runs),
        names=names(runs),
        runs=[summarise(facts) for facts in runs],
        differences=differences([facts.recipe for facts in runs]),
        figures=side_by_side(runs),
    )
    write_page(file, shown)


def _charts(runs: Sequence[Facts]) -> list[Chart]:
    """What runs are judged by, as means, and what else they can be compared in."""
    judged = dict.fromkeys(facts.judged_by for facts in runs if facts.lines)
    titles = {
        **{name: f"{name}, running mean" for name in judged},
        "accuracy": "accuracy, running mean",
        "grad_norm": "gradient norm, running mean",
        "tokens_per_second": "tokens/s, running mean",
    }
    curves = {title: [points(facts.learnt, name) for facts in runs] for name, title in titles.items()}
    curves = {title: [running_mean(one, smooth(one)) for one in each] for title, each in curves.items()}
    held_out = {f"{name}, held out": [points(facts.held_out, name) for facts in runs] for name in judged}
    found = []
    for title, each in {**dict(list(curves.items())[: len(judged)]), **held_out, **curves}.items():
        drawn = [
            Curve(name, curve, f"run-{number}")
            for number, (name, curve) in enumerate(zip(names(runs), each, strict=True))
            if curve
        ]
        if drawn:
            found.append(lay_out(Chart(title, drawn), from_zero=not title.startswith("reward")))
    return found


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted key, as --set has them."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        items = enumerate(value)
    else:
        return {key: value}
    return {
        name: each for part, inner in items for name, each in _flat(inner, f"{key}.{part}".strip(".")).items()
    }
