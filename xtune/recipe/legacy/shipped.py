"""What the shipped recipes say of models and data by name, to take the place of what XTuner has and xtune has not."""

from __future__ import annotations

from functools import cache
from typing import Any

from xtune.recipe.catalog import configs_directory
from xtune.recipe.lines import read_written
from xtune.recipe.literals import literal_sections


@cache
def shipped_parts(kind: str) -> tuple[dict[str, Any], ...]:
    """The sections of each part in configs/_base_ of that kind: "models" or "data"."""
    files = sorted((configs_directory() / "_base_" / kind).glob("*.py"))
    return tuple(literal_sections(read_written(str(file)).stated) for file in files)
