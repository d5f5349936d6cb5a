"""Encodes text word by word, remembering the ids of words: most of any text is words that came before.

    "The cat saw the cat."  ->  "The", " cat", " saw", " the", " cat."

A text is cut before a space that follows something else than white space. In nearly all vocabularies no token reaches
over such a place, and then the ids of the whole are those of its words one after the other. Whether it is so is looked
up in the vocabulary, and tried out; where it is not, whole texts go to the tokenizer.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING

from xtune.data.encoding.alphabet import Alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LONGEST = 40  # characters of a word that is worth remembering
MOST = 400_000  # words remembered
# What a space is in vocabularies: itself, sentencepiece's and the byte-level alphabet's. Line breaks and tabs are white
# space to the tokenizers that cut at it.
_CROSSES = re.compile("[^ \u2581\u0120\u010a\u010d\u0109\n\r\t][ \u2581\u0120]")
# White space besides ASCII's. Where a space follows white space of any kind, the run belongs together.
_ODD_SPACE = re.compile("[\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_CUT = re.compile(r"(?<=\S)(?= )")
_PROBES = (
    "The cat saw the cat.",
    "a  b   c\n d \n\n e\t f",
    " leading, trailing ",
    "1 23 456 ( 7 ) - x = y !",
    "it's I'm  we'll 'q' \"r\" s",
    "你好 世界， 中文 abc 。 ok",
    "def f(x):\n    return x + 1\n\n\tif y : z",
    "é ü ñ 🙂 👍🏽 x \u00a0 y \u3000 z",
    "<|im_end|> </s> [INST] a",
)


class Words:
    """Two tokenizers that differ in whether they put a space in front of a text, and the words known so far.

    tokens  added tokens that a text may hold, with their ids; what follows one goes on from it
    lossy   whether there was a character so far that the tokenizers have no token for (`alphabet` tells which)
    """

    def __init__(
        self,
        first: Tokenizer,
        continued: Tokenizer,
        tokens: Mapping[str, int] | None = None,
        word_by_word: bool | None = None,
    ):
        self.tokenizers = first, continued
        self.tokens = dict(tokens or {})
        longest_first = sorted(self.tokens, key=len, reverse=True)
        self._token = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self.word_by_word = _cuts_at_spaces(first, continued) if word_by_word is None else word_by_word
        self.alphabet, self.lossy = Alphabet(continued), False
        self._forget()

    def __reduce__(self):
        return Words, (*self.tokenizers, self.tokens, self.word_by_word)

    def _forget(self) -> None:
        # Of first words by whether the text goes on, and of words after a space, which stand here without it.
        self._first: tuple[dict[str, bytes], dict[str, bytes]] = ({}, {})
        self._after: dict[str, bytes] = {}

    def encode(self, texts: Sequence[tuple[str, bool]]) -> list[bytes]:
        """The ids (int32, as bytes) of each (text, whether it goes on from the text before)."""
        if not self.tokens:
            return self._encode(texts)
        split = [self._parts(text, continues) for text, continues in texts]
        between = iter(
            self._encode([part for parts in split for part in parts if part[0] not in self.tokens])
        )
        return [
            b"".join(
                array("i", [self.tokens[text]]).tobytes() if text in self.tokens else next(between)
                for text, _ in parts
            )
            for parts in split
        ]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the tokens of a text that goes on from another stand in it, in characters."""
        spans, start = [], 0
        for part, _ in self._parts(text, True):
            end = start + len(part)
            found = [(0, len(part))] if part in self.tokens else self._offsets(part)
            spans += [(start + begin, start + stop) for begin, stop in found]
            start = end
        return spans

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        return self.tokenizers[True].encode(text, add_special_tokens=False).offsets

    def _parts(self, text: str, continues: bool) -> list[tuple[str, bool]]:
        """Added tokens and what stands between them, each with whether it goes on from other text."""
        parts = [part for part in self._token.split(text) if part] if self.tokens else [text]
        return [(part, continues or index > 0) for index, part in enumerate(parts)]

    def _encode(self, texts: Sequence[tuple[str, bool]]) -> list[bytes]:
        split = [_words(text) if self.word_by_word else (text, ()) for text, _ in texts]
        if sum(map(len, self._first)) + len(self._after) > MOST:
            self._forget()
        long: list[tuple[dict[str, bytes], str]] = []
        for continues, known in enumerate(self._first):
            heads = {
                head for (_, goes_on), (head, _) in zip(texts, split, strict=True) if goes_on == continues
            }
            long += self._learn(known, heads - known.keys(), self.tokenizers[continues])
        joined = [self._join(rest) for _, rest in split]
        unknown = [index for index, ids in enumerate(joined) if ids is None]
        missing = set(chain.from_iterable(split[index][1] for index in unknown)) - self._after.keys()
        long += self._learn(self._after, missing, self.tokenizers[True], " ")
        for index in unknown:
            joined[index] = self._join(split[index][1])
        encoded = [
            self._first[continues][head] + rest
            for (_, continues), (head, _), rest in zip(texts, split, joined, strict=True)
        ]
        for known, word in long:
            known.pop(word, None)
        return encoded

    def _learn(
        self, known: dict[str, bytes], words: Iterable[str], tokenizer: Tokenizer, before: str = ""
    ) -> list[tuple[dict[str, bytes], str]]:
        """Add the ids of words; what is too long to be remembered comes back, each with its place."""
        words = list(words)
        self.lossy = self.lossy or any(map(self.alphabet.unknown, words))
        for word, ids in zip(words, _encode(tokenizer, [before + word for word in words]), strict=True):
            known[word] = array("i", ids).tobytes()
        return [(known, word) for word in words if len(word) > LONGEST]

    def _join(self, rest: Sequence[str]) -> bytes | None:
        """The ids of words after a space; None where one is not known yet."""
        if len(rest) < 2:
            return self._after.get(rest[0]) if rest else b""
        try:
            return b"".join(itemgetter(*rest)(self._after))
        except KeyError:
            return None


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _words(text: str) -> tuple[str, list[str]]:
    """The first word, and the others without the space before them."""
    odd = not text.isascii() and _ODD_SPACE.search(text)
    # That there is a tab at all is known sooner.
    tab = ("\t" in text and "\t " in text) or ("\r" in text and "\r " in text)
    if "  " in text or "\n " in text or tab or odd:
        head, *rest = _CUT.split(text)
        return head, [word[1:] for word in rest]
    rest = text.split(" ")
    return rest.pop(0), rest


def _cuts_at_spaces(first: Tokenizer, continued: Tokenizer) -> bool:
    added = {token.content for token in first.get_added_tokens_decoder().values()}
    if any(_CROSSES.search(token) for token in first.get_vocab() if token not in added):
        return False
    for probe in _PROBES:
        head, rest = _words(probe)
        for tokenizer in (first, continued):
            whole, ids = _encode(tokenizer, [probe, head])
            if whole != list(chain(ids, *_encode(continued, [f" {word}" for word in rest]))):
                return False
    return True
