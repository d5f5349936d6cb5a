"""OpenAssistant as text (QLoRA's Guanaco): {"text": "### Human: ...### Assistant: ...### Human: ..."}.

QLoRA's files of questions have the conversation up to a last "### Assistant:" there, and its answer in "output".
Only these two headings part turns, so that other Markdown headings in an answer stay.
"""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.mapper import Mapper, columns_of, is_preference, text
from xtune.messages import Message, Sample

_HEADING = re.compile(r"(?<!#)###[ \t]*(Human|Assistant)[ \t]*:")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def has_headings(row: Any) -> bool:
    """Whether a row's text is such a conversation."""
    words = row.get("text") if isinstance(row, dict) and not is_preference(row) else None
    return isinstance(words, str) and bool(_HEADING.match(words.lstrip()))


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row)
    column = "input" if "text" not in row and "input" in row else "text"
    before, *turns = _HEADING.split(text(columns_of(row, column)[column], column, found))
    if before.strip() or not turns:
        raise Reject("unknown_role", f'{column} does not start with "### Human:"')
    messages = [
        Message(_ROLES[name], said.strip()) for name, said in zip(turns[::2], turns[1::2], strict=True)
    ]
    if "output" in row and not (messages[-1].role == "assistant" and messages[-1].content):
        asked = messages[:-1] if messages[-1].role == "assistant" else messages
        messages = [*asked, Message("assistant", text(row["output"], "output", found))]
    return Sample(tuple(messages))


GUANACO = Mapper(
    "guanaco", "text with ### Human: and ### Assistant:", has_headings, _map, aliases=("oasst1_map_fn",)
)
