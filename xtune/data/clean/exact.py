"""Removes rows that say the same as an earlier one, but for white space, case and Unicode form."""

from __future__ import annotations

import hashlib

from xtune.data.clean.row import Removal, Row, normalised


class ExactDuplicates:
    """Remembers a hash of each whole row, with system prompt and tools."""

    def __init__(self):
        self._places: dict[bytes, str] = {}

    def __call__(self, row: Row) -> Removal | None:
        digest = hashlib.blake2b(normalised(row.whole).encode(), digest_size=16).digest()
        first = self._places.setdefault(digest, row.place)
        return Removal("exact duplicate", duplicate_of=first) if first != row.place else None
