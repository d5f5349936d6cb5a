"""What is odd about the words of a sample: characters lost in conversion, odd spaces, typed control tokens."""

from __future__ import annotations

import re
from dataclasses import replace

from xtune.data.findings import Findings
from xtune.messages import Message

# No-break and zero-width spaces, byte order marks, and the line ends that are none in most programs.
_ODD_SPACES = {
    "\xa0": " ",
    "\u202f": " ",
    "\u200b": "",
    "\ufeff": "",
    "\x85": "\n",
    "\u2028": "\n",
    "\u2029": "\n",
}
_ODD_SPACE = re.compile(f"[{''.join(_ODD_SPACES)}]")
# What the second and later bytes of a character in UTF-8 become when they are read as Latin-1 or CP1252. Some of it
# stands after a letter in its own right, as the quotation mark does in "«IRMû".
_MARKS = "\xa0«»‘’‚“”„…–—‹›"
_SIGNS = "\x80-\x9f¡-ª¬-º¼-¿€ƒ†‡ˆ‰Š™šŒœŽžŸ˜•"
_LATER = f"[{_MARKS}{_SIGNS}]"
# U+FFFD, and controls that nobody types.
_LOST = re.compile("[\ufffd\x80-\x84\x86-\x9f]")
# Ã© Â° (not the Ã of MÃE), â€™, Ä± ÅŸ within a word, Greek and Cyrillic, what is written without spaces (CJK, kana,
# Hangul), Vietnamese.
_MOJIBAKE = re.compile(
    rf"[ÂÃ][{_SIGNS}]|(?<![A-ZÀ-Þ])[ÂÃ](?:[\xa0«»]|[{_MARKS}](?=\w))|â(?:€{_LATER}|‚¬)"
    rf"|[ÄÅ]{_LATER}(?=[a-z])|(?:[ÎÏÐÑ]{_LATER}){{3}}|(?:[ã-íï]{_LATER}{{2}}){{2}}|áº{_LATER}|á»[{_SIGNS}]"
)
# With what any of this begins: found ten times as fast.
_MAY_BE_MOJIBAKE = re.compile(f"[ÂÃâÄÅÎÏÐÑã-íïá]{_LATER}")
# The control tokens of the formats that xtune writes, and what has their shape.
_CONTROL = re.compile(
    r"<\|[A-Za-z][\w ]{0,40}\|>|<｜[\w▁]{1,40}｜>|\[/?INST\]|<</?SYS>>|\[[gs]?MASK\]"
    r"|</?(?:s|think|tool_call|tool_response)>"
    r"|<(?:unk|pad|bos|eos|mask|[se]op|eo[acdhmrtu]|(?:start|end)_of_turn|reserved_\d+)>"
)


def check_text(messages: tuple[Message, ...], found: Findings) -> tuple[Message, ...]:
    """The messages, with spaces put right where the recipe says so; what is odd is noted. Raises Reject."""
    repair_outer = repair_odd = False
    parts = [message.content for message in messages]
    parts += [message.reasoning for message in messages if message.reasoning]
    for part in parts:
        if part and (part[0].isspace() or part[-1].isspace()):
            repair_outer = found.note("outer_space", "white space before or after what is said")
            break
    words = "\n".join(parts)
    if not words.isascii():
        if _LOST.search(words) or (_MAY_BE_MOJIBAKE.search(words) and _MOJIBAKE.search(words)):
            found.note("mojibake", "characters lost in an earlier conversion (mojibake)")
        if odd := _ODD_SPACE.search(words):
            repair_odd = found.note("odd_space", f"odd space U+{ord(odd[0]):04X}")
    if ("<" in words or "[" in words) and (token := _CONTROL.search(words)):
        found.note("control_token", f"control token in text: {token[0]}")
    if not (repair_outer or repair_odd):
        return messages
    return tuple(_repaired(message, repair_outer, repair_odd) for message in messages)


def _repaired(message: Message, outer: bool, odd: bool) -> Message:
    def put_right(words: str) -> str:
        words = _ODD_SPACE.sub(lambda space: _ODD_SPACES[space[0]], words) if odd else words
        return words.strip() if outer else words

    reasoning = put_right(message.reasoning) if message.reasoning else message.reasoning
    return replace(message, content=put_right(message.content), reasoning=reasoning)
