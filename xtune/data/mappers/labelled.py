"""Conversations with a verdict on the last answer (KTO): any of the commonest formats, and "label".

{"messages": [...], "label": bool}, and so with "conversations", prompt and completion, instruction and output; label
may also be 0, 1, "true" or "false", or bear LLaMA-Factory's name "kto_tag".
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.mapper import LABEL_COLUMNS, Mapper, columns_of, label
from xtune.data.mappers.messages import MESSAGES
from xtune.data.mappers.prompt_completion import PROMPT_COMPLETION
from xtune.data.mappers.sharegpt import SHAREGPT
from xtune.messages import Labelled

_FORMATS = (MESSAGES, SHAREGPT, ALPACA, PROMPT_COMPLETION)


def _fits(row: Any) -> bool:
    return isinstance(row, dict) and label(row) is not None and _format(row) is not None


def _format(row: dict[str, Any]) -> Mapper | None:
    conversation = {column: value for column, value in row.items() if column not in LABEL_COLUMNS}
    return next((mapper for mapper in _FORMATS if mapper.fits(conversation)), None)


def _map(row: Any, found: Findings) -> Labelled:
    row = columns_of(row)
    good, mapper = label(row), _format(row)
    if good is None:
        raise Reject("wrong_type", "the label is neither true nor false", str(row.get("label"))[:40])
    if mapper is None:
        raise Reject("wrong_columns", "no conversation beside the label", ", ".join(row)[:200])
    sample = mapper.map(row, found)
    return Labelled(sample.messages, good, sample.tools)


LABELLED = Mapper("labelled", "messages, label", _fits, _map, kind=Labelled, aliases=("kto",))
