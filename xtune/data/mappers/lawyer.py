"""Chinese law: both files of LAW-GPT.

crime_kg_assistant {"input": str, "output": str}
law_reference      {"question": str, "answer": str, "reference": [str, ...]}

The answers of the second rest on the statutes in `reference`, which LAW-GPT looks up and shows to the model when
it is used; they stand before the question here too, a line each. To be named: other data has these columns; they
then get a system prompt.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings
from xtune.data.mappers.exchange import join
from xtune.data.mappers.mapper import Mapper, columns_of, never, text
from xtune.data.mappers.prompt_completion import PROMPT_COMPLETION
from xtune.messages import Sample

SYSTEM = "You are a lawyer versed in Chinese law who gives sound advice and names the statutes it rests on."


def _map_crime(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "input", "output")
    return PROMPT_COMPLETION.map(row, found)


def _map_reference(row: Any, found: Findings) -> Sample:
    row = columns_of(row, "question", "answer", "reference")
    given = row["reference"]
    statutes = (text(part, "reference", found) for part in (given if isinstance(given, list) else [given]))
    return PROMPT_COMPLETION.map({**row, "reference": None, "context": join(*statutes)}, found)


# The second alias has the spelling of XTuner's function.
CRIME_KG_ASSISTANT = Mapper(
    "crime_kg_assistant",
    "input, output",
    never,
    _map_crime,
    aliases=("crime_kg_assistant_map_fn", "crime_kg_assitant_map_fn"),
    system=SYSTEM,
)
LAW_REFERENCE = Mapper(
    "law_reference",
    "question, answer, reference",
    never,
    _map_reference,
    aliases=("law_reference_map_fn",),
    system=SYSTEM,
)
