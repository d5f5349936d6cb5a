"""The formats of rows that xtune reads: one file each, and one line in this list."""

from __future__ import annotations

from xtune.data.mappers.alpaca import ALPACA, ALPACA_ZH
from xtune.data.mappers.arxiv import ARXIV
from xtune.data.mappers.code_alpaca import CODE_ALPACA, TINY_CODES
from xtune.data.mappers.colors import COLORS
from xtune.data.mappers.firefly import FIREFLY
from xtune.data.mappers.glaive import GLAIVE
from xtune.data.mappers.guanaco import GUANACO
from xtune.data.mappers.guanaco_zh import GUANACO_ZH
from xtune.data.mappers.labelled import LABELLED
from xtune.data.mappers.lawyer import CRIME_KG_ASSISTANT, LAW_REFERENCE
from xtune.data.mappers.mapper import Mapper
from xtune.data.mappers.medical import MEDICAL
from xtune.data.mappers.messages import MESSAGES
from xtune.data.mappers.moss import MOSS
from xtune.data.mappers.msagent import MSAGENT
from xtune.data.mappers.oasst import OASST
from xtune.data.mappers.pairs import PAIRS
from xtune.data.mappers.plain_text import PLAIN_TEXT
from xtune.data.mappers.prompt_completion import PROMPT_COMPLETION
from xtune.data.mappers.prompts import PROMPTS
from xtune.data.mappers.self_instruct import SELF_INSTRUCT
from xtune.data.mappers.sharegpt import SHAREGPT
from xtune.data.mappers.sql import SQL
from xtune.data.mappers.xtuner import XTUNER

__all__ = ["MAPPERS", "Mapper"]

MAPPERS: tuple[Mapper, ...] = (
    ALPACA,
    ALPACA_ZH,
    SELF_INSTRUCT,
    GUANACO_ZH,
    PROMPT_COMPLETION,
    CODE_ALPACA,
    TINY_CODES,
    SQL,
    ARXIV,
    MEDICAL,
    CRIME_KG_ASSISTANT,
    LAW_REFERENCE,
    COLORS,
    FIREFLY,
    XTUNER,
    PLAIN_TEXT,
    PAIRS,
    LABELLED,
    PROMPTS,
    SHAREGPT,
    MSAGENT,
    MESSAGES,
    MOSS,
    GLAIVE,
    GUANACO,
    OASST,
)
