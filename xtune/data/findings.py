"""What is found wrong with one record, and what the recipe says is to be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from xtune.errors import DataError


@cache
def default_actions() -> Mapping[str, str]:
    """Defect to action, where a recipe says nothing."""
    from xtune.recipe.data_schema import Defects  # takes a tenth of a second

    return Defects().model_dump()


class Reject(Exception):
    """A record cannot be used.

    defect  its name in Defects, which says whether to go on; "" where another option of the recipe does
    reason  in the same words for the same fault, so that they can be counted
    detail  what is particular to this record
    """

    def __init__(self, defect: str, reason: str, detail: str = ""):
        super().__init__(reason)
        self.defect, self.reason, self.detail = defect, reason, detail

    def unless_stopped(self, actions: Mapping[str, str], place: str) -> Reject:
        """Itself, to be raised or counted. Raises DataError where the recipe says to stop at such a record."""
        if actions.get(self.defect) != "stop":
            return self
        raise DataError(
            self.reason[0].upper() + self.reason[1:] + (f" ({self.detail})." if self.detail else "."),
            where=place,
            fix=f'put the record right, or set data.defects.{self.defect} to something other than "stop"',
        ) from None


class Findings:
    """Collects what was repaired in a record, and what was only noted."""

    def __init__(self, actions: Mapping[str, str] | None = None):
        self.actions = default_actions() if actions is None else actions
        self.repairs: dict[str, None] = {}  # in order, each once
        self.notes: dict[str, None] = {}

    def repair(self, defect: str, reason: str, how: str = "") -> None:
        """Say that something is put right, or a turn left out. Raises Reject where the record is to be dropped.

        how  what was done, said after the reason where it was done
        """
        if self.actions[defect] in ("drop", "stop"):
            raise Reject(defect, reason)
        self.repairs[f"{reason}: {how}" if how else reason] = None

    def note(self, defect: str, reason: str) -> bool:
        """Say that something is there; True where it is to be repaired. Raises Reject as `repair` does."""
        if self.actions[defect] == "keep":
            self.notes[reason] = None
            return False
        self.repair(defect, reason)
        return True
