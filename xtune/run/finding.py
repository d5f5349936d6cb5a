"""What stands out in a run, and the figures that the rules of `xtune doctor` draw it from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from xtune.run.summary import Facts, ends, points


@dataclass(frozen=True)
class Finding:
    """Something that stands out in a run.

    likely   how probable it is that a run came out badly because of this, 0 to 1; the order in which findings are told
    """

    what: str
    evidence: str
    advice: str = ""
    likely: float = 0.5


Rule = Callable[[Facts], Finding | None]


def ends_of(facts: Facts, name: str = "") -> tuple[float, float] | None:
    """Means of a figure over the first and the last steps; None where there are too few to compare."""
    values = [value for _, value in points(facts.learnt, name or facts.judged_by)]
    part = ends(len(values))
    return (sum(values[:part]) / part, sum(values[-part:]) / part) if len(values) >= 4 else None


def means_over(facts: Facts) -> str:
    return f"means over {ends(len(facts.learnt))} of {len(facts.learnt)} steps"
