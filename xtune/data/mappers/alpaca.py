"""Alpaca: an instruction, perhaps with an input, and its answer (Taori et al. 2023).

{"instruction": str, "input": str, "output": str}; optional "system": str and
"history": [[question, answer], ...].
"""

from __future__ import annotations

from typing import Any

from xtune.data.mappers.mapper import Mapped, Mapper, Reject, is_preference, kind, text
from xtune.messages import Message


def _fits(row: Any) -> bool:
    return isinstance(row, dict) and {"instruction", "output"} <= row.keys() and not is_preference(row)


def _map(row: Any) -> Mapped:
    if not isinstance(row, dict):
        raise Reject(f"the row is {kind(row)}, not an object")
    for column in ("instruction", "output"):
        if column not in row:
            raise Reject(f'no column "{column}"')
    repairs: list[str] = []
    instruction, given, output, system = (
        text(row.get(column), column, repairs) for column in ("instruction", "input", "output", "system")
    )
    # The set's first authors had the generating model write these words for "none".
    if given.strip() == "<noinput>":
        repairs.append('input "<noinput>" taken as empty')
        given = ""
    if not output.strip() or output.strip() == "<nooutput>":
        raise Reject("empty answer")
    # Joined only if there is something on both sides, as InternLM's own script does it.
    question = "\n".join(part for part in (instruction, given) if part.strip())
    messages = [Message("system", system)] if system else []
    for earlier, answer in _history(row.get("history"), repairs):
        messages += [Message("user", earlier), Message("assistant", answer)]
    messages += [Message("user", question), Message("assistant", output)]
    return Mapped(tuple(messages), repairs=tuple(repairs))


def _history(value: Any, repairs: list[str]) -> list[tuple[str, str]]:
    if value is None or value == "":
        return []
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Reject("history is not a list of [question, answer]")
    return [
        (text(question, "history", repairs), text(answer, "history", repairs)) for question, answer in value
    ]


ALPACA = Mapper("alpaca", "instruction, input, output", _fits, _map)
