"""Finds rows that share most of their 5-grams with an earlier one that stays.

MinHash (Broder, 1997) with banded locality-sensitive hashing finds rows that may be alike; the Jaccard index is then
computed from the n-grams themselves, so that chance removes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from xtune.data.clean.row import Removal, Row, ngrams, tokens

if TYPE_CHECKING:
    import numpy as np

NGRAM = 5
PERMUTATIONS = 128
# Of 4 values each. A pair of Jaccard index 0.7 shares one with a probability of 1 - (1 - 0.7**4)**32 = 0.9998.
BANDS = 32
# Three standard deviations of the estimate that 128 permutations give of an index of 0.7.
SLACK = 0.12
# In the questions of more rows than this, an n-gram is the frame that a task was put in.
FRAME_ROWS = 50


class Fingerprint(NamedTuple):
    """The hashed 5-grams of a row, sorted: (n,) uint32 each, 4 bytes a word. Of two rows hardly ever two clash."""

    place: str
    question: np.ndarray
    answer: np.ndarray


def fingerprint(row: Row) -> Fingerprint:
    """What is kept of a row. Questions and answers have n-grams apart; the system prompt is left out."""
    import numpy as np
    from rensa import RMinHash

    parts = [
        [mark + ngram for ngram in set(ngrams(tokens(part, operators=True), NGRAM))]
        for mark, part in (("?", row.question), ("!", f"{row.answer or ''}\n{row.rejected}"))
    ]
    hashes = (np.array(part, dtype=np.uint64) >> np.uint64(32) for part in RMinHash.hash_token_sets(parts))
    return Fingerprint(row.place, *(np.unique(part.astype(np.uint32)) for part in hashes))


def near_duplicates(rows: Sequence[Fingerprint], threshold: float) -> Iterator[Removal | None]:
    """Say of each row in turn whether its Jaccard index with an earlier one reaches `threshold`.

    A row is compared with those that stay, so that a chain of small changes does not remove its far end. Questions
    by themselves and answers by themselves must be at least half as alike as the rows: other answers to the same
    long question, or other questions with the same answer, are other rows. Nor are rows alike because of the
    instruction that their task comes with: n-grams in many questions do not count, where others are left.
    """
    import numpy as np
    from rensa import RMinHash, RMinHashLSH

    frame = _frame(rows)
    index = RMinHashLSH(threshold, PERMUTATIONS, BANDS)
    # The lowest 8 bits are enough to pass over those that are far apart, many at a time.
    signatures = np.zeros((len(rows), PERMUTATIONS), dtype=np.uint8)
    for number, row in enumerate(rows):
        question = _own(row.question, frame)
        data = np.concatenate((question, row.answer)).tobytes()
        if not data:
            yield None
            continue
        minhash = RMinHash(PERMUTATIONS, 1)
        minhash.update([data[start : start + 4] for start in range(0, len(data), 4)])
        signatures[number] = np.array(minhash.digest(), dtype=np.uint32) & 0xFF
        keys = np.sort(np.array(index.query(minhash), dtype=np.intp))
        agreement = np.count_nonzero(signatures[keys] == signatures[number], axis=1) / PERMUTATIONS
        for key in keys[agreement >= threshold - SLACK]:
            same, total = _overlap(question, _own(rows[key].question, frame))
            same_answer, total_answer = _overlap(row.answer, rows[key].answer)
            similarity = (same + same_answer) / (total + total_answer)
            if (
                similarity >= threshold
                and same >= threshold / 2 * total
                and same_answer >= threshold / 2 * total_answer
            ):
                yield Removal("near duplicate", "", rows[key].place, round(similarity, 3))
                break
        else:
            index.insert(number, minhash)
            yield None


def _frame(rows: Sequence[Fingerprint]) -> np.ndarray:
    """The n-grams that stand in many questions, sorted."""
    import numpy as np

    if not rows:
        return np.array([], dtype=np.uint32)
    ngrams, counts = np.unique(np.concatenate([row.question for row in rows]), return_counts=True)
    return ngrams[counts > FRAME_ROWS]


def _own(question: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The n-grams of a question that are not its frame, if there are any."""
    own = question[~_among(question, frame)] if len(frame) else question
    return own if len(own) else question


def _overlap(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """How many n-grams are in both, and in either."""
    same = int(_among(first, second).sum()) if len(second) else 0
    return same, len(first) + len(second) - same


def _among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which values are among the others, both sorted and the others not empty: faster than numpy's isin."""
    import numpy as np

    return others[np.searchsorted(others, values).clip(max=len(others) - 1)] == values
