"""What xtune knows of a model family: a frozen set of facts and small functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Facts about a family of checkpoints.

    name        what `model.family` calls it
    recognises  whether a config.json, read as a dict, belongs to it
    template    its chat template's name in xtune/templates; None: the checkpoint brings its own
    """

    name: str
    recognises: Callable[[dict[str, Any]], bool]
    template: str | None = None
