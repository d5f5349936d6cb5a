"""Accounts for every record of the data: kept, repaired or rejected, with reason, file and line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

# Places named for each reason; the count goes on.
PLACES = 5


@dataclass
class Tally:
    """How often something was found, and the first places: "file:line", with what is particular to it."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, count: int, places: Iterable[str]) -> None:
        self.count += count
        self.places = [*self.places, *places][:PLACES]


@dataclass(frozen=True)
class FileFormat:
    """The format a file was read in, and why."""

    path: str
    format: str
    why: str


@dataclass
class DataReport:
    """What became of the records. Every stage from reading to encoding records into it.

    Each record is read once and rejected at most once, at whichever stage; what is not rejected is kept, so
    that read == kept + rejected at any time. A repaired record is a kept one; if it is rejected later it no
    longer counts as repaired, though what was repaired stays listed.
    """

    read: int = 0
    rejected: int = 0
    repairs: dict[str, Tally] = field(default_factory=dict)
    rejections: dict[str, Tally] = field(default_factory=dict)
    formats: list[FileFormat] = field(default_factory=list)
    _repaired: set[str] = field(default_factory=set)

    @property
    def kept(self) -> int:
        """Records that are trained on."""
        return self.read - self.rejected

    @property
    def repaired(self) -> int:
        """Kept records that were changed."""
        return len(self._repaired)

    def repair(self, reason: str, source: str) -> None:
        """Count one repair of a kept record; `source` is its Sample.source."""
        self.repairs.setdefault(reason, Tally()).add(1, [source])
        self._repaired.add(source)

    def reject(self, reason: str, source: str, detail: str = "") -> None:
        """Count a record that was read as rejected, even if it was kept so far."""
        self.rejected += 1
        self.rejections.setdefault(reason, Tally()).add(1, [f"{source} ({detail})" if detail else source])
        self._repaired.discard(source)

    def __add__(self, other: DataReport) -> DataReport:
        """The report of both: sum(reports, DataReport())."""
        total = DataReport(
            self.read + other.read,
            self.rejected + other.rejected,
            formats=[*self.formats, *other.formats],
            _repaired=self._repaired | other._repaired,
        )
        for report in (self, other):
            for mine, theirs in ((total.repairs, report.repairs), (total.rejections, report.rejections)):
                for reason, tally in theirs.items():
                    mine.setdefault(reason, Tally()).add(tally.count, tally.places)
        return total

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON."""
        counts = {name: getattr(self, name) for name in ("read", "kept", "repaired", "rejected")}
        reasons = {
            name: {
                reason: {"count": tally.count, "places": tally.places} for reason, tally in tallies.items()
            }
            for name, tallies in (("repairs", self.repairs), ("rejections", self.rejections))
        }
        formats = [{"path": file.path, "format": file.format, "why": file.why} for file in self.formats]
        return {**counts, **reasons, "formats": formats}

    def __str__(self) -> str:
        """The report for people: totals, files, then the reasons, the most frequent first."""
        repaired = f" ({self.repaired} of them repaired)" if self.repaired else ""
        lines = [f"{self.read} records read, {self.kept} kept{repaired}, {self.rejected} rejected"]
        lines += [f"  {file.path}: {file.format} ({file.why})" for file in self.formats]
        for title, tallies in (("rejected", self.rejections), ("repaired", self.repairs)):
            lines += _table(title, tallies)
        return "\n".join(lines)


def _table(title: str, tallies: dict[str, Tally]) -> list[str]:
    lines = [f"{title}:"] if tallies else []
    for reason, tally in sorted(tallies.items(), key=lambda item: -item[1].count):
        more = ", ..." if tally.count > len(tally.places) else ""
        lines.append(f"  {tally.count:>6}  {reason}")
        lines.append(f"          {', '.join(tally.places)}{more}")
    return lines
