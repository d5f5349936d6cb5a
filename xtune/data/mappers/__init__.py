"""The formats of rows that xtune reads: one file each, and one line in this list."""

from __future__ import annotations

from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.mapper import Mapped, Mapper, Reject
from xtune.data.mappers.messages import MESSAGES
from xtune.data.mappers.sharegpt import SHAREGPT

__all__ = ["MAPPERS", "Mapped", "Mapper", "Reject"]

# Where rows fit several, the first one is taken.
MAPPERS: tuple[Mapper, ...] = (ALPACA, SHAREGPT, MESSAGES)
