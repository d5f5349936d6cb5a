"""Guanaco by J. Cheung: Alpaca's columns, with earlier turns written into the instruction or the input.

{"instruction": "User: ...\\nAssistant: ...", "input": "User: ...", "output": str}. To be named: the columns are
Alpaca's. Only a text that alternates as a conversation does, up to a last question, is taken apart; any other
row is read as Alpaca's.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.mapper import Mapper, never
from xtune.data.mappers.transcript import read_transcript
from xtune.messages import Message, Sample

_ROLES = {"System": "system", "User": "user", "Assistant": "assistant"}


def _map(row: Any, found: Findings) -> Sample:
    sample = ALPACA.map(row, found)
    *earlier, question, answer = sample.messages
    turns = read_transcript(question.content, _ROLES)
    if not _is_conversation(turns):
        return sample
    return replace(sample, messages=(*earlier, *turns, answer))


def _is_conversation(turns: tuple[Message, ...]) -> bool:
    spoken = [turn.role for turn in turns if turn.role != "system"]
    return (
        bool(spoken)
        and spoken[0] == spoken[-1] == "user"
        and all(first != second for first, second in pairwise(spoken))
    )


GUANACO_ZH = Mapper("guanaco_zh", "instruction, input with earlier turns as text, output", never, _map)
