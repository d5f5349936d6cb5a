"""Preferences: two answers to the same, of which one is the better (DPO, reward models).

{"prompt": str, "chosen": str, "rejected": str}. Under the names of REJECTED_COLUMNS too; each may be a turn or a
list of turns. The question may be
    prompt, question, query, or instruction with input; with "system" and "history": [[question, answer], ...]
    conversations or messages up to there (LLaMA-Factory)
    in chosen and rejected themselves: as turns before the answer (Hugging Face), or in one text after "Human:"
    and "Assistant:" (hh-rlhf)
and chosen may be the answer of the row itself, "response" or the end of "messages", beside "rejected_response"
(ms-swift). Optional "tools". POLAR's rows fit as well; their "reference", with which a judge compares both answers,
has no place in a pair and is left out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.exchange import TURN_COLUMNS, before, question, question_column, said
from xtune.data.mappers.mapper import CHOSEN_COLUMNS, REJECTED_COLUMNS, Mapper, columns_of
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.transcript import read_transcript
from xtune.messages import Message, Pair

_SPEAKERS = {"Human": "user", "Assistant": "assistant"}

Turns = tuple[Message, ...]


def _fits(row: Any) -> bool:
    if not isinstance(row, dict):
        return False
    chosen, rejected = _first(row, CHOSEN_COLUMNS), _first(row, REJECTED_COLUMNS)
    has_turns = _first(row, TURN_COLUMNS) is not None
    if rejected is None or (chosen is None and "response" not in row and not has_turns):
        return False
    whole = isinstance(row[rejected], list) or (
        isinstance(row[rejected], str) and bool(_transcript(row[rejected]))
    )
    return whole or has_turns or question_column(row) is not None


def _map(row: Any, found: Findings) -> Pair:
    row = columns_of(row)
    rejected_column = _first(row, REJECTED_COLUMNS)
    if rejected_column is None:
        raise Reject("wrong_columns", "no column for the rejected answer", ", ".join(row)[:200])
    prompt = question(row, found) or before(row, found)
    chosen_column = _first(row, CHOSEN_COLUMNS)
    if chosen_column is not None:
        chosen = said(row[chosen_column], "assistant", found)
    elif _first(row, TURN_COLUMNS) is not None:
        prompt, chosen = _split_answer(prompt)
    else:
        chosen = said(columns_of(row, "response")["response"], "assistant", found)
    rejected = said(row[rejected_column], "assistant", found)
    asked, better, worse = _split_shared(_whole(prompt, chosen), _whole(prompt, rejected))
    return Pair(asked, better, worse, read_tools(row.get("tools")))


def _first(row: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    return next((column for column in columns if column in row), None)


def _transcript(words: str) -> Turns:
    return read_transcript(words, _SPEAKERS)


def _split_answer(turns: Turns) -> tuple[Turns, Turns]:
    end = max((index for index, turn in enumerate(turns) if turn.role != "assistant"), default=-1) + 1
    return turns[:end], turns[end:]


def _whole(prompt: Turns, answer: Turns) -> Turns:
    """The conversation that ends with this answer, which may hold what was said before itself."""
    system = tuple(takewhile(lambda turn: turn.role == "system", prompt))
    if prompt == system and len(answer) == 1:
        answer = _transcript(answer[0].content) or answer
    if answer and answer[0].role != "assistant":
        return answer if answer[0].role == "system" else system + answer
    if prompt == system:
        raise Reject("wrong_columns", "no column for the question")
    return prompt + answer


def _split_shared(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """(prompt, chosen, rejected) of two conversations that must be the same up to the answer. Raises Reject."""
    shared = 0
    for first, second in zip(chosen, rejected, strict=False):
        if replace(first, loss=True) != replace(second, loss=True):
            break
        shared += 1
    while shared and chosen[shared - 1].role == "assistant":
        shared -= 1
    prompt, better, worse = chosen[:shared], chosen[shared:], rejected[shared:]
    if any(turn.role in ("system", "user") for turn in better + worse):
        raise Reject("unequal_prompts", "chosen and rejected answer different questions")
    for name, answer in (("chosen", better), ("rejected", worse)):
        if not answer or not (answer[-1].content.strip() or answer[-1].tool_calls):
            raise Reject("empty_answer", f"the {name} answer is empty")
    if better == worse:
        raise Reject("equal_answers", "chosen and rejected are the same")
    return prompt, better, worse


PAIRS = Mapper(
    "pairs", "prompt, chosen, rejected", _fits, _map, kind=Pair, aliases=("preference", "dpo", "reward")
)
