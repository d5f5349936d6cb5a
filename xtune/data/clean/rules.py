"""Rules on an answer alone: its length, its symbols, its repetitions, and phrases that nobody wants to teach.

The measures are those of MassiveText (Rae et al., 2021, "Scaling Language Models", appendix A.1), on answers. The
limits are wider than theirs for web pages: code, tables and lists are full of symbols and of lines that come again.
"""

from __future__ import annotations

import re

from xtune.data.clean.row import Removal, Row, tokens

# Ratios of shorter answers say nothing: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] may well be one.
MIN_CHARACTERS = 100
NGRAM = 10

_BOILERPLATE = {
    "speaks as an AI model": (
        r"\bas an? (AI|artificial intelligence)\b",
        r"\bI'?m (just |only )?an? (AI|artificial intelligence) (language )?(model|assistant)\b",
        r"作为(一个|一名|一款|一位)?(人工智能|AI)",
        r"我(只)?是(一个|一名|一款|一位)?(人工智能|AI)(语言)?(模型|助手)",
    ),
    "refuses": (
        r"\bI'?m sorry,? but I (can'?t|can ?not|am unable|'?m unable|'?m not able)",
        r"\bI (can'?t|can ?not|am unable to) (assist|help|comply|fulfil+) ",
        r"(对不起|抱歉)[，,]?我(无法|不能|没有办法)",
    ),
    "is left over from a web page": (
        r"\benable (JavaScript|cookies)\b",
        r"\b(we|this (site|website)) uses? cookies\b",
        r"(启用|开启|打开)\s?(JavaScript|Cookie)",
        r"本(网站|站)使用\s?Cookie",
    ),
}
_PATTERNS = {reason: re.compile("|".join(phrases), re.IGNORECASE) for reason, phrases in _BOILERPLATE.items()}


def length(row: Row, least: int, most: int | None) -> Removal | None:
    """Removes answers of fewer characters than `least` or more than `most`, outer white space aside."""
    if row.answer is None:
        return None
    count = len(row.answer.strip())
    if count < least:
        return Removal("answer too short", f"{count} characters")
    return Removal("answer too long", f"{count} characters") if most is not None and count > most else None


def symbols(row: Row, most: float) -> Removal | None:
    """Removes answers of which more than this share of the visible characters are neither letters nor digits."""
    if row.answer is None or len(row.answer) < MIN_CHARACTERS:
        return None
    share = symbol_share(row.answer)
    return Removal("too many symbols", f"{share:.0%} of the answer") if share > most else None


def repetition(row: Row, most: float) -> Removal | None:
    """Removes answers of which more than this share are lines, or runs of 10 words, that stood before."""
    if row.answer is None or len(row.answer) < MIN_CHARACTERS:
        return None
    for what, share in (("lines", repeated_lines(row.answer)), ("10-grams", repeated_ngrams(row.answer))):
        if share > most:
            return Removal("too much repetition", f"{share:.0%} of the answer is repeated {what}")
    return None


def boilerplate(row: Row) -> Removal | None:
    """Removes answers that speak as an AI model, refuse, or hold notices of web pages. In English and Chinese."""
    answer = (row.answer or "").replace("’", "'")
    for reason, pattern in _PATTERNS.items():
        if found := pattern.search(answer):
            return Removal(f"boilerplate: {reason}", found[0])
    return None


def symbol_share(text: str) -> float:
    """Share of the characters (white space aside) that are neither letters, digits nor marks on letters."""
    import unicodedata

    visible = "".join(text.split())
    symbols = sum(not letter.isalnum() and unicodedata.category(letter)[0] != "M" for letter in visible)
    return symbols / max(1, len(visible))


def repeated_lines(text: str) -> float:
    """Share of the characters of lines that are in lines which stood before; blank lines and indents aside."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    total = sum(map(len, lines))
    return (total - sum(map(len, set(lines)))) / max(1, total)


def repeated_ngrams(text: str, n: int = NGRAM) -> float:
    """Share of the characters of words that are in runs of n words which stood before."""
    words = tokens(text)
    seen, repeated = set(), bytearray(len(words))
    for start in range(len(words) - n + 1):
        ngram = tuple(words[start : start + n])
        if ngram in seen:
            repeated[start : start + n] = b"\1" * n
        seen.add(ngram)
    lengths = [*map(len, words)]
    return sum(length for length, again in zip(lengths, repeated, strict=True) if again) / max(
        1, sum(lengths)
    )
