"""Reads a conversation that is written down as one text, each turn after the name of who speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from xtune.messages import Message


def read_transcript(words: str, roles: Mapping[str, str]) -> tuple[Message, ...]:
    """The turns of a text in which lines that begin with one of these names start a turn, as in "User: Hello".

    roles: name to role. White space around a turn belongs to the layout and is left out. () if the text does not
    begin with a name.
    """
    names = "|".join(map(re.escape, roles))
    parts = re.split(rf"^[ \t]*({names})[ \t]*[:：]", words, flags=re.MULTILINE)
    if parts[0].strip():
        return ()
    return tuple(
        Message(roles[name], turn.strip()) for name, turn in zip(parts[1::2], parts[2::2], strict=True)
    )
