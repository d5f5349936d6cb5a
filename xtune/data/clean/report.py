"""Accounts for every record that was cleaned: kept, removed by a step, or rejected since it cannot be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from xtune.data.clean.options import Options
from xtune.data.clean.row import Removal
from xtune.data.report import DataReport, Tally


@dataclass
class CleanReport:
    """What became of the records. read = kept + removed + rejected.

    removals  (place, why) of each removed row
    data      of the reader: formats, and what it rejected
    held_out  the same of the held-out set, if there is one
    """

    out: str
    options: Options
    kept: int = 0
    removals: list[tuple[str, Removal]] = field(default_factory=list)
    data: DataReport = field(default_factory=DataReport)
    held_out: DataReport | None = None

    def tallies(self) -> dict[str, Tally]:
        """Reason of removal to how often and where, the most frequent first."""
        tallies: dict[str, Tally] = {}
        for place, why in self.removals:
            tallies.setdefault(why.reason, Tally()).add(
                1, [f"{place} ({note})" if (note := _note(why)) else place]
            )
        return dict(sorted(tallies.items(), key=lambda item: -item[1].count))

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON, with every removal."""
        return {
            "out": self.out,
            "read": self.data.read,
            "kept": self.kept,
            "removed": len(self.removals),
            "rejected": self.data.rejected,
            "reasons": {reason: tally.count for reason, tally in self.tallies().items()},
            "removals": [{"place": place, **removal_dict(why)} for place, why in self.removals],
            "options": asdict(self.options),
            "data": self.data.to_dict(),
            "held_out": self.held_out and self.held_out.to_dict(),
        }

    def __str__(self) -> str:
        """The report for people."""
        lines = [
            f"{self.data.read} records read: {self.kept} kept, {len(self.removals)} removed, "
            f"{self.data.rejected} rejected"
        ]
        lines += [f"  {file.path}: {file.format} ({file.why})" for file in self.data.formats]
        if self.held_out:
            lines.append(
                f"  held out: {self.held_out.kept} rows of {self.options.against}, {self.held_out.rejected} rejected"
            )
        for title, tallies in (("removed", self.tallies()), ("rejected", self.data.rejections)):
            lines += [f"{title}:"] if tallies else []
            for reason, tally in tallies.items():
                more = (
                    [f"... and {tally.count - len(tally.places)} more"]
                    if tally.count > len(tally.places)
                    else []
                )
                lines.append(f"  {tally.count:>6}  {reason}")
                lines += [f"          {place}" for place in [*tally.places, *more]]
        return "\n".join(lines)


def removal_dict(why: Removal) -> dict[str, Any]:
    """What a removal says, as plain JSON."""
    return {name: value for name, value in asdict(why).items() if value not in (None, "")}


def _note(why: Removal) -> str:
    alike = f", {why.similarity:.2f} alike" if why.similarity is not None else ""
    return why.detail or (f"of {why.duplicate_of}{alike}" if why.duplicate_of else "")
