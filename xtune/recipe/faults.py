"""A fault of a recipe, and the one error that lists them all."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtune.errors import RecipeError

Key = tuple[str | int, ...]
"""Where a value stands in a recipe: ("data", "sources", 0, "path")."""


@dataclass(frozen=True)
class Place:
    """Where something is written: a line of a file, or (line 0) a file or an override."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{shown(self.file)}:{self.line}" if self.line else shown(self.file)


@dataclass(frozen=True)
class Fault:
    """`text` says what is wrong and what is allowed. `key` is () where the fault is not about one value."""

    text: str
    key: Key = ()
    place: Place | None = None

    def __str__(self) -> str:
        return ": ".join(str(part) for part in (self.place, dotted(self.key), self.text) if part)


def recipe_error(file: str | Path, faults: Sequence[Fault]) -> RecipeError:
    """The error that lists the faults in the order they stand in the files."""
    ordered = sorted(faults, key=lambda f: (f.place is None, f.place and (f.place.file, f.place.line)))
    count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
    return RecipeError("\n".join([f"{shown(file)} has {count}:", *(f"  {fault}" for fault in ordered)]))


def dotted(key: Key) -> str:
    return ".".join(map(str, key))


def shown(path: str | Path) -> str:
    """The path as a user would type it: relative where it lies under the current directory."""
    path = os.path.normpath(path)
    relative = os.path.relpath(path) if os.path.isabs(path) else path
    return path if relative.startswith("..") else relative


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """ "; did you mean lr?", or nothing where no allowed name is near."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {near[0]}?" if near else ""
