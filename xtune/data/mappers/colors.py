"""Colours from their descriptions, with a system prompt that says so: burkelibbey/colors.

{"description": "Name: what it looks like", "color": "#0a0b0c"}. The name before the first colon is left out, as it
could be learnt by heart; a description without one is taken whole.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import conversation, is_single
from xtune.data.mappers.mapper import Mapper, columns_of, text
from xtune.messages import Sample

SYSTEM = "You answer the description of a colour with its hexadecimal RGB code."


def _fits(row: Any) -> bool:
    return is_single(row) and {"description", "color"} <= row.keys()


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "description", "color")
    description = text(row["description"], "description", found)
    name, _, words = description.partition(":")
    return conversation({}, words.strip() or name, row["color"], found)


COLORS = Mapper("colors", "description, color", _fits, _map, aliases=("colors_map_fn",), system=SYSTEM)
