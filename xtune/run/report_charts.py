"""The curves of a report as SVG paths, with axes in round numbers; the template draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from xtune.run.summary import Facts, points

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 22, 14, 32
_MOST = 300
"""Stretches of a curve, of each of which the lowest and the highest point are drawn."""

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """A curve of a chart. `kind` is how it looks: "each" (pale), "mean", "held-out", or "limit" (a dashed line)."""

    name: str
    points: Points
    kind: str = "mean"


@dataclass
class Chart:
    """A chart laid out: ticks are (place, text); `paths` are (kind, SVG path), `dots` (kind, x, y)."""

    title: str
    curves: list[Curve]
    paths: list[tuple[str, str]] = field(default_factory=list)
    dots: list[tuple[str, float, float]] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    data: str = ""
    """JSON for the pointer: {"x": [first, last], "curves": [[name, [[step, figure], ...]], ...]}."""

    @property
    def summary(self) -> str:
        """What it shows, for those who do not see it."""
        told = [
            f"{curve.name} from {number(curve.points[0][1])} to {number(curve.points[-1][1])}"
            for curve in self.curves
        ]
        return f"{self.title}: {', '.join(told)}"


def charts(facts: Facts) -> list[Chart]:
    """All that is known of a run by step, what it is judged by first."""
    judged, limit = facts.judged_by, facts.recipe.train.max_grad_norm
    titles = {
        judged: judged,
        "accuracy": "accuracy",
        "rewards/accuracy": "accuracy: chosen above rejected",
        "grad_norm": "gradient norm",
        "lr": "learning rate",
        "tokens_per_second": "tokens/s",
        "peak_memory_gib": "peak memory, GiB",
    }
    found = []
    for name, title in titles.items():
        each = points(facts.learnt, name)
        if not each:
            continue
        if name in ("lr", "peak_memory_gib") or len(each) < 20:
            curves = [Curve(title, each)]
        else:
            width = smooth(each)
            curves = [Curve("each step", each, "each"), Curve(f"mean of {width}", running_mean(each, width))]
        if held_out := points(facts.held_out, name):
            curves.append(Curve("held out", held_out, "held-out"))
        if name == "grad_norm" and max(value for _, value in each) > limit:
            curves.append(Curve("clipped to", [(each[0][0], limit), (each[-1][0], limit)], "limit"))
        found.append(lay_out(Chart(title, curves), from_zero=name != judged or judged == "loss"))
    return found


def running_mean(curve: Points, width: int) -> list[tuple[int, float]]:
    """At each step the mean over so many steps up to it, or over as many as there are."""
    total, means = 0.0, []
    for index, (step, value) in enumerate(curve):
        total += value - (curve[index - width][1] if index >= width else 0)
        means.append((step, total / min(index + 1, width)))
    return means


def smooth(curve: Points) -> int:
    """Over how many steps to average, to show where a curve goes: a twentieth of it."""
    return max(2, len(curve) // 20)


def lay_out(chart: Chart, from_zero: bool) -> Chart:
    """Fill in where everything of a chart goes. `from_zero`: its figures are never negative, and 0 is on the axis."""
    steps = [step for curve in chart.curves for step, _ in curve.points]
    values = [value for curve in chart.curves for _, value in curve.points]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    marks = ticks(0.0 if from_zero else min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)

    def x(step: float) -> float:
        return round(LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    chart.x_ticks = [
        (x(step), f"{step:,.0f}")
        for step in ticks(first, last, parts=6)
        if first <= step <= last and step % 1 == 0
    ]
    chart.y_ticks = [(y(value), number(value)) for value in marks]
    for curve in chart.curves:
        drawn = thinned(curve.points)
        chart.paths.append((curve.kind, "M" + "L".join(f"{x(step):g} {y(value):g}" for step, value in drawn)))
        if len(drawn) == 1 or (curve.kind == "held-out" and len(drawn) <= 30):
            chart.dots += [(curve.kind, x(step), y(value)) for step, value in drawn]
    told = [
        [curve.name, [[step, float(f"{value:.4g}")] for step, value in thinned(curve.points)]]
        for curve in chart.curves
        if curve.kind != "limit"
    ]
    chart.data = json.dumps({"x": [first, last], "curves": told}, separators=(",", ":"))
    return chart


def ticks(low: float, high: float, parts: int = 4) -> list[float]:
    """Round numbers around and between two, with up to so many parts between them."""
    part = ((high - low) or abs(high) or 1.0) / parts
    power = 10.0 ** math.floor(math.log10(part))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= part * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def thinned(curve: Points) -> list[tuple[int, float]]:
    """Of a long curve the lowest and the highest point of each stretch, so that no spike is lost; and its last."""
    if len(curve) <= 2 * _MOST:
        return list(curve)
    width = math.ceil(len(curve) / _MOST)
    kept = {len(curve) - 1}
    for start in range(0, len(curve), width):
        stretch = range(start, min(start + width, len(curve)))
        kept |= {min(stretch, key=lambda i: curve[i][1]), max(stretch, key=lambda i: curve[i][1])}
    return [curve[index] for index in sorted(kept)]


def number(value: float | None) -> str:
    """A figure for people: three significant digits."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    text = f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
