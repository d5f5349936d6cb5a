"""How lengths or turns are spread over samples: percentiles and a histogram."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Spread:
    """How a number is spread over samples.

    counts  the number to how many samples have it
    """

    counts: Counter[int] = field(default_factory=Counter)

    def percentile(self, percent: float) -> int:
        """The smallest number that this percentage of the samples does not exceed; 0 where there is none."""
        rank, seen = math.ceil(percent / 100 * self.counts.total()), 0
        for number in sorted(self.counts):
            seen += self.counts[number]
            if seen >= rank:
                return number
        return 0

    @property
    def longest(self) -> int:
        """The largest number; 0 where there is none."""
        return max(self.counts, default=0)

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, to, samples) by powers of two: 0, 1, 2, 3-4, 5-8, 9-16 …, without empty bins at the ends."""
        bins: Counter[int] = Counter()
        for number, samples in self.counts.items():
            bins[(number - 1).bit_length() if number else -1] += samples
        edges = [
            (-1, 0, 0),
            *((power, (1 << power >> 1) + 1 if power else 1, 1 << power) for power in range(64)),
        ]
        return [
            (low, high, bins[power]) for power, low, high in edges if bins and min(bins) <= power <= max(bins)
        ]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        percentiles = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        bins = [{"from": low, "to": high, "count": count} for low, high, count in self.histogram()]
        return {"max": self.longest, **percentiles, "histogram": bins}
