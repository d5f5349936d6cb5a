"""Titles for abstracts, from arXiv's metadata, with a system prompt that says so.

{"abstract": str, "title": str}. Both come folded to lines for mail: a title goes on after a new line and two
spaces; an abstract begins with two spaces, its lines end anywhere, and two spaces begin a paragraph. Folds become
spaces here, and a paragraph a line.
"""

from __future__ import annotations

import re
from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import conversation, is_single
from xtune.data.mappers.mapper import Mapper, columns_of, text
from xtune.messages import Sample

SYSTEM = "You find a concise and fitting title for the abstract of a scientific paper."


def _fits(row: Any) -> bool:
    return is_single(row) and {"abstract", "title"} <= row.keys()


def _map(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "abstract", "title")
    paragraphs = re.split(r"\n[ \t]+", text(row["abstract"], "abstract", found).strip())
    abstract = "\n".join(_unfold(paragraph) for paragraph in paragraphs)
    title = _unfold(text(row["title"], "title", found))
    return conversation({}, abstract, title, found)


def _unfold(lines: str) -> str:
    return re.sub(r"\s*\n\s*", " ", lines.strip())


ARXIV = Mapper("arxiv", "abstract, title", _fits, _map, aliases=("arxiv_map_fn",), system=SYSTEM)
