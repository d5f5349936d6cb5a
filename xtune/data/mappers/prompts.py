"""Questions that the model answers itself while it learns (GRPO and the like), with what to judge it by.

{"prompt": str or [messages], "answer": any}. For prompt also question, query, problem, instruction with input, or
"messages" that end with the user; for answer see _ANSWER_COLUMNS; verl has it in "reward_model": {"ground_truth"}.
Optional "system", "history", "tools". All columns go on to the reward functions.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.exchange import TURN_COLUMNS, question, question_column
from xtune.data.mappers.guanaco import has_headings
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference
from xtune.data.mappers.tools import read_tools
from xtune.data.mappers.turns import ROLE_NAMES
from xtune.messages import Prompt

# The first that the row has: a short answer can be compared, a worked one not as well.
_ANSWER_COLUMNS = ("ground_truth", "answer", "solution", "output", "response", "completion", "target")


def _fits(row: Any) -> bool:
    if not isinstance(row, dict) or is_preference(row) or has_headings(row):
        return False
    turns = next((row[column] for column in TURN_COLUMNS if row.get(column)), None)
    if turns is None:
        return question_column(row) is not None and "instances" not in row
    last = turns[-1] if isinstance(turns, list) else None
    role = last.get("role", last.get("from")) if isinstance(last, dict) else None
    return isinstance(role, str) and role.lower() in ROLE_NAMES["user"]


def _map(row: Any, found: Findings) -> Prompt:
    row = columns_of(row)
    messages = question(row, found)
    if messages is None:
        raise Reject("wrong_columns", "no column for the question", ", ".join(row)[:200])
    if not messages or messages[-1].role not in ("user", "tool"):
        raise Reject("wrong_type", "the prompt does not end with a question")
    return Prompt(messages, _answer(row), row, read_tools(row.get("tools")))


def _answer(row: dict[str, Any]) -> Any:
    judge = row.get("reward_model")
    if isinstance(judge, dict) and judge.get("ground_truth") is not None:
        return judge["ground_truth"]
    return next((row[column] for column in _ANSWER_COLUMNS if row.get(column) is not None), None)


PROMPTS = Mapper("prompts", "prompt, perhaps answer", _fits, _map, kind=Prompt, aliases=("verl",))
