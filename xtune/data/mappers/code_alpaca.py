"""Data sets of programming: Code Alpaca in both its layouts, and tiny-codes.

{"prompt": str, "completion": str} on the hub and {"instruction": str, "input": str, "output": str} on GitHub;
tiny-codes has {"prompt": str, "response": str}. To be named, as other data has these columns too; they then get a
system prompt.
"""

from __future__ import annotations

from xtune.data.mappers.mapper import Mapper, never
from xtune.data.mappers.prompt_completion import PROMPT_COMPLETION

SYSTEM = "You are an experienced programmer who writes correct, readable code and explains it briefly."


CODE_ALPACA = Mapper(
    "code_alpaca",
    "prompt, completion or instruction, input, output",
    never,
    PROMPT_COMPLETION.map,
    aliases=("code_alpaca_map_fn",),
    system=SYSTEM,
)
TINY_CODES = Mapper(
    "tiny_codes",
    "prompt, response",
    never,
    PROMPT_COMPLETION.map,
    aliases=("tiny_codes_map_fn",),
    system=SYSTEM,
)
