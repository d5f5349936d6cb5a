"""Removes rows that hold a passage of a held-out set, such as a benchmark, which then no longer measures anything.

A passage is a run of 13 words, as of Brown et al. (2020, "Language Models are Few-Shot Learners", appendix C), or of
20 characters where most are Chinese, Japanese or Korean: about as many words, of a character and a half each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from xtune.data.clean.row import Removal, Row, is_cjk, normalised, tokens

NGRAM = 13


class Contamination:
    """Knows the passages of the held-out rows, and their questions, which may be shorter than a passage.

    Questions and answers are searched, system prompts are not: they are the same on both sides.
    """

    def __init__(self, held_out: Iterator[Row], n: int = NGRAM):
        self.n = n
        self.rows = 0
        # Hashes, since the texts themselves would take several times the memory.
        self._passages: dict[int, str] = {}
        self._questions: dict[int, str] = {}
        for row in held_out:
            self.rows += 1
            for part in (row.question, row.answer or "", row.rejected):
                for passage in self._runs(part):
                    self._passages.setdefault(hash(passage), row.place)
            if row.question:
                self._questions.setdefault(hash(normalised(row.question)), row.place)

    def __call__(self, row: Row) -> Removal | None:
        if row.question and (place := self._questions.get(hash(normalised(row.question)))):
            return Removal("in the held-out set", f"the question of {place}")
        for part in (row.question, row.answer or "", row.rejected):
            for passage in self._runs(part):
                if place := self._passages.get(hash(passage)):
                    return Removal("in the held-out set", f'shares "{" ".join(passage)}" with {place}')
        return None

    def _runs(self, text: str) -> Iterator[tuple[str, ...]]:
        words = tokens(text)
        of_characters = math.ceil(1.5 * self.n)
        for start in range(len(words) - self.n + 1):
            run = tuple(words[start : start + self.n])
            if 2 * sum(map(is_cjk, run)) > self.n:
                run = tuple(words[start : start + of_characters])
                if len(run) < of_characters:
                    continue
            yield run
