"""A question and its answer, under any of the names that these two have in the wild.

{"prompt": str, "completion": str}, and so on: see COLUMNS. Either may be a list of messages instead. Optional
"system" (OpenOrca: "system_prompt"), "history": [[question, answer], ...], and what the question is about, put
before it: "context", or "reference" where that is a list of passages. A "reference" that is text is taken for one
of the columns that say where a row is from, as "source" and "id" do; law_reference reads it. A row with an
"instruction" is read as Alpaca's where this format is named for it.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.exchange import asked, conversation, is_single
from xtune.data.mappers.guanaco import has_headings
from xtune.data.mappers.mapper import Mapper, columns_of
from xtune.messages import Sample

COLUMNS = (
    ("prompt", "completion"),  # OpenAI, TRL
    ("prompt", "response"),  # ChatGLM's p-tuning
    ("query", "response"),  # ms-swift
    ("question", "response"),  # OpenOrca, Stack Exchange
    ("question", "answer"),
    ("problem", "solution"),  # NuminaMath
    ("input", "output"),  # XTuner
    ("content", "summary"),  # AdvertiseGen
)


def _pairs(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [pair for pair in COLUMNS if row.keys() >= set(pair)]


def _fits(row: Any) -> bool:
    if not is_single(row) or "instruction" in row or has_headings(row):
        return False
    # With several there is no telling which answer is meant.
    return len(_pairs(row)) == 1


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row)
    if "instruction" in row:  # of which the input is only a part
        return ALPACA.map(row, found)
    pairs = _pairs(row)
    if not pairs:
        raise Reject(
            "wrong_columns", "no column for the question, or none for the answer", ", ".join(row)[:200]
        )
    question, answer = pairs[0]
    return conversation(row, asked(row, question, found), row[answer], found)


PROMPT_COMPLETION = Mapper(
    "prompt_completion",
    "a question and an answer: " + ", ".join(f"{question} and {answer}" for question, answer in COLUMNS),
    _fits,
    _map,
    aliases=(
        *("default_map_fn", "stack_exchange", "stack_exchange_map_fn", "openorca", "openorca_map_fn"),
        *("query_response", "question_answer", "advertise_gen"),
    ),
)
