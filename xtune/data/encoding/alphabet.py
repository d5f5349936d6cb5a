"""Which characters a tokenizer has no tokens for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xtune.data.findings import Findings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PLAIN = re.compile(r"[ -~\n\t\r]*")


class Alphabet:
    """Remembers of each character whether a tokenizer can write it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self._unknown_id = tokenizer.token_to_id(unknown) if unknown else None
        self._writable: set[str] = set()
        self._unknown: set[str] = set()

    def unknown(self, text: str) -> str:
        """The first character of the text that has no token, or ""."""
        if (text.isascii() and _PLAIN.fullmatch(text)) or self._writable.issuperset(text):
            return ""
        for character in set(text) - self._writable - self._unknown:
            (self._writable if self._writes(character) else self._unknown).add(character)
        return next((character for character in text if character in self._unknown), "")

    def note_unknown(self, text: str, found: Findings) -> None:
        """Note the first character of the text that has no token. Raises Reject as `found.note` does."""
        if unknown := self.unknown(text):
            found.note("unknown_character", f"the tokenizer has no token for U+{ord(unknown):04X}")

    def _writes(self, character: str) -> bool:
        ids = self._tokenizer.encode(character, add_special_tokens=False).ids
        if not ids or self._unknown_id in ids:
            return False
        return character == "\ufffd" or "\ufffd" not in self._tokenizer.decode(ids, skip_special_tokens=False)
