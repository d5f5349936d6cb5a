"""SQL from a question: sql-create-context.

{"context": str, "question": str, "answer": str}: CREATE TABLE statements, a question about them, a query. To be
named: other data has these columns too; it then gets a system prompt.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.mapper import Mapper, columns_of, never
from xtune.data.mappers.prompt_completion import PROMPT_COMPLETION
from xtune.messages import Sample

SYSTEM = "You translate questions about the given database tables into SQL queries that answer them."


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "context", "question", "answer")
    return PROMPT_COMPLETION.map(row, found)


SQL = Mapper("sql", "context, question, answer", never, _map, aliases=("sql_map_fn",), system=SYSTEM)
