"""Why a run came out badly: what is seen in its figures, and what may have caused it.

Each rule is a function of what is known of a run. It gives None, or a finding with the figures that it was drawn from.
"""

from __future__ import annotations

from dataclasses import dataclass

from xtune.run.doctor_causes import CAUSES
from xtune.run.doctor_seen import SEEN
from xtune.run.finding import Finding
from xtune.run.summary import Facts


@dataclass(frozen=True)
class Diagnosis:
    """What came out badly, and what may be the causes, the likeliest first."""

    seen: list[Finding]
    causes: list[Finding]


def diagnose(facts: Facts) -> Diagnosis:
    """All that stands out in a run."""
    seen, causes = ([found for rule in rules if (found := rule(facts))] for rules in (SEEN, CAUSES))
    return Diagnosis(seen, sorted(causes, key=lambda finding: -finding.likely))
