"""Alpaca: an instruction, perhaps with an input, and its answer (Taori et al. 2023).

{"instruction": str, "input": str, "output": str}; optional "system" and "history": [[question, answer], ...].
BELLE, GPT-4 Alpaca and Guanaco have these columns too. Dolly says "context" for the input and "response" for the
output. alpaca_zh reads "instruction_zh", "input_zh", "output_zh", which may stand beside the English ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import conversation, is_single, join
from xtune.data.mappers.mapper import Mapper, columns_of, text
from xtune.messages import Sample

_ENGLISH = (("instruction", "input", "output"), ("instruction", "context", "response"))
_CHINESE = (("instruction_zh", "input_zh", "output_zh"),)

Layouts = tuple[tuple[str, str, str], ...]


def _fits(row: Any, layouts: Layouts) -> bool:
    return is_single(row) and any(needed in row and answer in row for needed, _, answer in layouts)


def _map(row: Any, found: Findings, layouts: Layouts) -> Sample:
    row = columns_of(row)
    columns = next((columns for columns in layouts if columns[2] in row), layouts[0])
    columns_of(row, columns[0], columns[2])
    instruction, given, output = (text(row.get(column), column, found) for column in columns)
    # The set's first authors had the generating model write these words for "none".
    if given.strip() == "<noinput>":
        found.repair("not_text", 'input "<noinput>" taken as empty')
        given = ""
    if output.strip() == "<nooutput>":
        output = ""
    return conversation(row, join(instruction, given), output, found)


ALPACA = Mapper(
    "alpaca",
    "instruction, input, output",
    partial(_fits, layouts=_ENGLISH),
    partial(_map, layouts=_ENGLISH),
    aliases=("alpaca_map_fn", "belle", "dolly"),
)
ALPACA_ZH = Mapper(
    "alpaca_zh",
    "instruction_zh, input_zh, output_zh",
    partial(_fits, layouts=_CHINESE),
    partial(_map, layouts=_CHINESE),
    aliases=("alpaca_zh_map_fn",),
)
