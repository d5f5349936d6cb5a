"""Medical questions in Alpaca's columns: shibing624/medical.

{"instruction": str, "input": str, "output": str}. To be named: the columns are Alpaca's; it then gets a system
prompt.
"""

from __future__ import annotations

from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.mapper import Mapper, never

SYSTEM = (
    "You are a knowledgeable doctor who answers medical questions with care and in words patients understand."
)


MEDICAL = Mapper(
    "medical", "instruction, input, output", never, ALPACA.map, aliases=("medical_map_fn",), system=SYSTEM
)
