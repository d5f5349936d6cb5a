"""What becomes of a sample that is longer than `data.max_length`, by `data.overlong`.

    auto       as "drop"; of documents as "split"
    drop       the record is rejected, and counted
    error      an error that names it
    cut_turns  its last turns are left out, until it fits; of conversations only
    split      several samples, cut before turns of the user's; the system prompt and the tools are in each; of
               conversations only
    cut        what the user, the system and tools say is shortened in its middle, the longest first

An answer is never cut: each sample ends with its stop token. Of a pair both answers must fit, behind the same prompt. A
document has no turns:
it is split into windows, of which only the last has its end token, or cut to the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from xtune.data.encoding.encode import NO_LABEL_BYTES, Encoder
from xtune.data.encoding.pieces import Fixed
from xtune.data.findings import Findings, Reject
from xtune.errors import DataError
from xtune.messages import AnySample, Document, Message, Pair, Prompt, Sample

GAP = "\n…\n"
_SHORTEST = 8  # tokens that are left of a text that is cut


@dataclass(frozen=True)
class Fitting:
    """How long a sample may be, in tokens, and what is done where it is longer."""

    encoder: Encoder
    max_length: int
    overlong: str

    def fit(self, sample: AnySample, encoded: list[Fixed], found: Findings) -> list[Fixed]:
        """`encoded`, the texts of the sample, without what is too long or has no loss; or what is made of them.

        Raises Reject where nothing is left, DataError where `overlong` is "error".
        """
        too_long = [one for one in encoded if _tokens(one) > self.max_length]
        if too_long and self.overlong == "error":
            raise DataError(
                f"A sample has {max(map(_tokens, too_long))} tokens, more than data.max_length = {self.max_length}.",
                where=sample.source,
                fix='Raise data.max_length, or set data.overlong = "drop".',
            )
        asked = isinstance(sample, Prompt)
        fitting = [one for one in encoded if _tokens(one) <= self.max_length and (asked or has_loss(one))]
        if isinstance(sample, Pair) and len(fitting) < len(encoded):
            fitting = []
        if too_long and (made := self._shortened(sample, encoded)):
            found.repairs[f"longer than max_length ({self.max_length} tokens): {_DONE[self.overlong]}"] = None
            return made
        if not fitting:
            if not too_long:
                raise Reject("no_loss", "no token carries loss")
            longest = max(map(_tokens, too_long))
            raise Reject("no_loss", f"longer than max_length ({self.max_length} tokens)", f"{longest} tokens")
        if len(fitting) < len(encoded):
            why = (
                f"longer than max_length ({self.max_length} tokens)" if too_long else "no token carries loss"
            )
            found.repairs[f"turn left out: {why}"] = None
        return fitting

    def _shortened(self, sample: AnySample, encoded: list[Fixed]) -> list[Fixed]:
        if isinstance(sample, Document) and self.overlong in ("auto", "split", "cut"):
            (whole,) = encoded
            starts = (0,) if self.overlong == "cut" else range(0, _tokens(whole), self.max_length)
            windows = [slice(4 * start, 4 * (start + self.max_length)) for start in starts]
            made = [Fixed(whole.ids[window], whole.labels[window]) for window in windows]
            return [
                one for one in made if has_loss(one)
            ]  # in a last window of one token nothing is predicted
        if isinstance(sample, Sample) and self.overlong == "cut_turns":
            return self._first_turns(sample)
        if isinstance(sample, Sample) and self.overlong == "split":
            return [one for part in self._parts(sample) for one in self._encode(part)]
        return self._cut(sample) if self.overlong == "cut" and not isinstance(sample, Document) else []

    def _encode(self, sample: AnySample) -> list[Fixed]:
        return self.encoder.encode_bytes(self.encoder.pieces(sample))

    def _fits(self, sample: Sample) -> bool:
        return all(_tokens(one) <= self.max_length and has_loss(one) for one in self._encode(sample))

    def _first_turns(self, sample: Sample) -> list[Fixed]:
        system, exchanges = _exchanges(sample)
        for count in range(len(exchanges) - 1, 0, -1):
            fewer = replace(sample, messages=(*system, *sum(exchanges[:count], ())))
            if self._fits(fewer):
                return self._encode(fewer)
        return []

    def _parts(self, sample: Sample) -> Iterator[Sample]:
        """Samples of as many exchanges as fit, in order; an exchange that is too long alone is left out."""
        system, exchanges = _exchanges(sample)
        part: tuple[Message, ...] = ()
        for exchange in exchanges:
            longer = replace(sample, messages=(*system, *part, *exchange))
            if self._fits(longer):
                part += exchange
                continue
            if part:
                yield replace(sample, messages=(*system, *part))
            part = exchange if self._fits(replace(sample, messages=(*system, *exchange))) else ()
        if part:
            yield replace(sample, messages=(*system, *part))

    def _cut(self, sample: AnySample) -> list[Fixed]:
        spans = self.encoder.words.spans
        name = "prompt" if isinstance(sample, Pair) else "messages"
        messages, cut = list(getattr(sample, name)), set()
        while True:
            encoded = self._encode(replace(sample, **{name: tuple(messages)}))
            excess = max(map(_tokens, encoded)) - self.max_length
            if excess <= 0:
                return encoded if isinstance(sample, Prompt) or all(map(has_loss, encoded)) else []
            offsets = {
                index: spans(turn.content)
                for index, turn in enumerate(messages)
                if turn.role != "assistant" and index not in cut
            }
            longest = max(offsets, key=lambda index: len(offsets[index]), default=None)
            if longest is None or len(offsets[longest]) <= _SHORTEST:
                return []
            cut.add(longest)
            gap = len(spans(GAP)) + 2  # words at its ends are cut anew
            left = max(_SHORTEST, len(offsets[longest]) - excess - gap)
            messages[longest] = replace(
                messages[longest], content=_without_middle(messages[longest].content, offsets[longest], left)
            )


_DONE = {
    "cut_turns": "last turns left out",
    "split": "split",
    "cut": "what the user says is cut",
    "auto": "split",
}


def _tokens(encoded: Fixed) -> int:
    return len(encoded.ids) // 4


def has_loss(encoded: Fixed) -> bool:
    """Whether anything is learnt; the first token is never predicted."""
    return encoded.labels[4:] != NO_LABEL_BYTES * (_tokens(encoded) - 1)


def _exchanges(sample: Sample) -> tuple[tuple[Message, ...], list[tuple[Message, ...]]]:
    """The messages before the user's first, and those from each of the user's to the next."""
    starts = [index for index, turn in enumerate(sample.messages) if turn.role == "user"]
    ends = [*starts[1:], len(sample.messages)]
    return sample.messages[: starts[0]], [
        sample.messages[start:end] for start, end in zip(starts, ends, strict=True)
    ]


def _without_middle(text: str, offsets: Sequence[tuple[int, int]], left: int) -> str:
    """The text with only `left` of its tokens, half of them at either end."""
    before = offsets[(left + 1) // 2 - 1][1]
    after = offsets[len(offsets) - left // 2][0]
    return text[:before] + GAP + text[after:]
