"""The form XTuner's map functions give, which some files are written in; and that of its demos.

{"conversation": [{"system": str, "input": str, "output": str}, ...]}: a turn each, "system" in the first one or
none; "output_with_loss": false keeps an answer from being learnt. The demos say toy_system, toy_input and toy_output,
in turns under "messages" or as the columns of a row.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.exchange import TURN_COLUMNS, is_single
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, kind, text
from xtune.messages import Message, Sample

_TOY = "toy_"
_TOY_COLUMNS = {"toy_input", "toy_output"}


def _fits(row: Any) -> bool:
    if is_single(row):
        return row.keys() >= _TOY_COLUMNS
    turns = _turns(row) if isinstance(row, dict) and not is_preference(row) else None
    turn = turns[0] if isinstance(turns, list) and turns else None
    return isinstance(turn, dict) and (turn.keys() >= _TOY_COLUMNS or {"input", "output"} <= turn.keys())


def _turns(row: dict[str, Any]) -> Any:
    return next((row[column] for column in TURN_COLUMNS if column in row), [row])


def _map(row: Any, found: Findings) -> Sample:
    turns = _turns(columns_of(row))
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise Reject("wrong_type", "the conversation is not a list of objects", kind(turns))
    return Sample(tuple(message for turn in turns for message in _read_turn(turn, found)))


def _read_turn(turn: dict[str, Any], found: Findings) -> list[Message]:
    turn = columns_of({name.removeprefix(_TOY): value for name, value in turn.items()}, "input", "output")
    system, question, answer = (
        text(turn.get(column), column, found) for column in ("system", "input", "output")
    )
    return [
        *([Message("system", system)] if system else []),
        Message("user", question),
        Message("assistant", answer, loss=turn.get("output_with_loss") is not False),
    ]


XTUNER = Mapper("xtuner", "conversation[system, input, output]", _fits, _map)
