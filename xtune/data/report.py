"""Accounts for every record of the data: kept, repaired or rejected, with reason, file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xtune.data.findings import Findings, Reject

# Places named for each reason; the count goes on.
PLACES = 5
LEFT_OUT = "left out by"
"""How the reason begins where a function of the user's has left a record out: that is no fault."""


@dataclass
class Tally:
    """How often something was found, and the first places: "file:line", with what is particular to it."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, count: int, places: Iterable[str]) -> None:
        self.count += count
        if len(self.places) < PLACES:
            self.places = [*self.places, *places][:PLACES]


@dataclass(frozen=True)
class FileFormat:
    """The format a source was read in, and why."""

    path: str
    format: str
    why: str


@dataclass
class DataReport:
    """What became of the records: each is either kept, perhaps repaired, or rejected, at whichever stage.

    repairs, rejections   reason to how often and where
    notes                 what was found in kept records and left as it is
    """

    kept: int = 0
    rejected: int = 0
    repaired: int = 0
    repairs: dict[str, Tally] = field(default_factory=dict)
    rejections: dict[str, Tally] = field(default_factory=dict)
    notes: dict[str, Tally] = field(default_factory=dict)
    formats: list[FileFormat] = field(default_factory=list)

    @property
    def read(self) -> int:
        """Records read."""
        return self.kept + self.rejected

    def keep(self, source: str, found: Findings) -> None:
        """Count a record, whose place is `source`, as kept, with what was found in it."""
        self.kept += 1
        if found.repairs:
            self.repaired += 1
            for reason in found.repairs:
                self.repairs.setdefault(reason, Tally()).add(1, [source])
        for reason in found.notes:
            self.note(source, reason)

    def note(self, source: str, reason: str) -> None:
        """Say that something was found in a kept record and left as it is."""
        self.notes.setdefault(reason, Tally()).add(1, [source])

    def reject(self, source: str, fault: Reject) -> None:
        """Count a record as rejected."""
        self.rejected += 1
        place = f"{source} ({fault.detail})" if fault.detail else source
        self.rejections.setdefault(fault.reason, Tally()).add(1, [place])

    def __iadd__(self, other: DataReport) -> DataReport:
        self.kept += other.kept
        self.rejected += other.rejected
        self.repaired += other.repaired
        self.formats += other.formats
        for name in ("repairs", "rejections", "notes"):
            mine = getattr(self, name)
            for reason, tally in getattr(other, name).items():
                mine.setdefault(reason, Tally()).add(tally.count, tally.places)
        return self

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON."""
        counts = {name: getattr(self, name) for name in ("read", "kept", "repaired", "rejected")}
        reasons = {
            name: {
                reason: {"count": tally.count, "places": tally.places}
                for reason, tally in getattr(self, name).items()
            }
            for name in ("repairs", "rejections", "notes")
        }
        formats = [{"path": file.path, "format": file.format, "why": file.why} for file in self.formats]
        return {**counts, **reasons, "formats": formats}

    def __str__(self) -> str:
        """The report for people: totals, files, then the reasons, the most frequent first."""
        repaired = f" ({self.repaired} of them repaired)" if self.repaired else ""
        lines = [f"{self.read} records read, {self.kept} kept{repaired}, {self.rejected} rejected"]
        lines += [f"  {file.path}: {file.format} ({file.why})" for file in self.formats]
        for title, tallies in (
            ("rejected", self.rejections),
            ("repaired", self.repairs),
            ("kept as it is", self.notes),
        ):
            lines += _table(title, tallies)
        return "\n".join(lines)


def faults(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rejections of a report (to_dict) that are not the user's own will, the most frequent first."""
    found = [item for item in report["rejections"].items() if not item[0].startswith(LEFT_OUT)]
    return dict(sorted(found, key=lambda item: -item[1]["count"]))


def _table(title: str, tallies: dict[str, Tally]) -> list[str]:
    lines = [f"{title}:"] if tallies else []
    for reason, tally in sorted(tallies.items(), key=lambda item: -item[1].count):
        more = ", ..." if tally.count > len(tally.places) else ""
        lines.append(f"  {tally.count:>6}  {reason}")
        lines.append(f"          {', '.join(tally.places)}{more}")
    return lines
