"""Which steps of cleaning are taken, with which numbers."""

from __future__ import annotations

from dataclasses import dataclass

from xtune.data.clean.contamination import NGRAM
from xtune.data.language import LANGUAGES
from xtune.errors import UsageError
from xtune.recipe.faults import did_you_mean


@dataclass(frozen=True)
class Options:
    """The defaults keep practically all of good data. Raises UsageError where a value makes no sense.

    exact           remove exact duplicates
    near            remove near duplicates, from the Jaccard index `threshold` on
    rules           remove answers by their length in characters (min_chars, max_chars), their share of symbols
                    (max_symbols) and of repetition (max_repetition), shares being 0 to 1
    boilerplate     remove answers that speak as an AI model, refuse, or hold notices of web pages
    languages       keep these only, and what cannot be told: ("en", "zh"); () keeps all
    against         a held-out file: remove what shares a passage of `ngram` words, or a question, with it
    """

    exact: bool = True
    near: bool = True
    threshold: float = 0.7
    rules: bool = True
    min_chars: int = 1
    max_chars: int | None = None
    max_symbols: float = 0.9
    max_repetition: float = 0.75
    boilerplate: bool = False
    languages: tuple[str, ...] = ()
    against: str | None = None
    ngram: int = NGRAM

    def __post_init__(self):
        for language in self.languages:
            if language not in LANGUAGES:
                raise UsageError(
                    f'"{language}" is no language that can be told{did_you_mean(language, LANGUAGES) or "."}',
                    fix=f"name some of {', '.join(LANGUAGES)}",
                )
        for name in ("threshold", "max_symbols", "max_repetition"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} must be above 0 and at most 1, not {getattr(self, name)}.")
        if self.ngram < 1:
            raise UsageError(f"ngram must be at least 1, not {self.ngram}.")
