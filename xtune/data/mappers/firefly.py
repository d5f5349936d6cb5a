"""Firefly: {"kind": str, "input": str, "target": str}.

Its newer files are conversations[human, assistant], which ShareGPT's mapper finds; under this name they are read too.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import conversation, is_single
from xtune.data.mappers.mapper import Mapper, columns_of
from xtune.data.mappers.sharegpt import SHAREGPT
from xtune.messages import Sample


def _fits(row: Any) -> bool:
    return (
        is_single(row)
        and {"input", "target"} <= row.keys()
        and row.keys().isdisjoint(("instruction", "output"))
    )


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row)
    if "conversation" in row:
        return SHAREGPT.map(row, found)
    row = columns_of(row, "input", "target")
    return conversation(row, row["input"], row["target"], found)


FIREFLY = Mapper("firefly", "kind, input, target", _fits, _map)
