"""What the steps of cleaning see of a record, and what they say of one that is to go."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtune.messages import AnySample, Document, Labelled, Message, Pair, Prompt

# A Chinese, Japanese or Korean character is a token of its own, since such texts have no spaces between words.
_CJK = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af\U00020000-\U0003ffff"
_TOKEN = re.compile(f"[{_CJK}]|[^\\W{_CJK}]+")
_TOKEN_OR_OPERATOR = re.compile(f"[-+*/×÷=<>≤≥≠^%|&~]|{_TOKEN.pattern}")


@dataclass(frozen=True)
class Row:
    """A record as the steps see it.

    place     "file:line"
    row       the record as it was read
    question  what the user and tools say, a paragraph a turn; of plain text nothing
    answer    what is learnt: what the assistant says, with its reasoning and calls, or plain text; None where there
              is no answer to learn
    rejected  the answers that preference data tells to avoid, which may well be bad
    whole     all that makes this record differ from another: the above with roles, system prompt and tools
    """

    place: str
    row: Any = field(repr=False)
    question: str
    answer: str | None
    rejected: str
    whole: str


@dataclass(frozen=True)
class Removal:
    """Why a row is removed.

    reason        in the same words for the same reason, so that they can be counted
    detail        what is particular to this row, such as the number that is too high
    duplicate_of  place of the row that stays in its stead
    similarity    to that row: Jaccard index of their n-grams
    """

    reason: str
    detail: str = ""
    duplicate_of: str | None = None
    similarity: float | None = None


def make_row(place: str, row: Any, samples: Sequence[AnySample]) -> Row:
    """The Row of a record and of the samples that it became: one, or several of the same conversation."""
    questions, answers, rejected, whole = [], [], [], []
    for sample in samples:
        good, bad, other = _parts(sample)
        questions += [turn.content for turn in good + bad if turn.role in ("user", "tool")]
        answers += [_said(turn) for turn in good if turn.role == "assistant"]
        rejected += [_said(turn) for turn in bad if turn.role == "assistant"]
        if isinstance(sample, Document):
            answers.append(sample.text)
        whole += [f"{turn.role}: {_said(turn)}" for turn in good + bad]
        whole.append(json.dumps(other, ensure_ascii=False, sort_keys=True, default=str))
    return Row(
        place,
        row,
        _joined(questions),
        _joined(answers) if answers else None,
        _joined(rejected),
        "\n".join(whole),
    )


def normalised(text: str) -> str:
    """The text as duplicates are told: Unicode NFKC, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def tokens(text: str, operators: bool = False) -> list[str]:
    """The words of a text in order, normalised, without punctuation; of CJK texts the characters.

    operators  take +, < and the like as words, since x + 1 is not x - 1
    """
    pattern = _TOKEN_OR_OPERATOR if operators else _TOKEN
    return pattern.findall(unicodedata.normalize("NFKC", text).casefold())


def is_cjk(token: str) -> bool:
    """Whether a token is a CJK character; they all stand behind the letters of other scripts."""
    return token > "\u3040" and len(token) == 1


def ngrams(words: Sequence[str], n: int) -> Iterable[str]:
    """All runs of n words; of fewer than n words that one run, of none nothing."""
    if not words:
        return []
    return (" ".join(words[start : start + n]) for start in range(max(1, len(words) - n + 1)))


def _parts(sample: AnySample) -> tuple[tuple[Message, ...], tuple[Message, ...], Any]:
    """The messages of a sample that are learnt, those that are not, and what else it says."""
    if isinstance(sample, Document):
        return (), (), sample.text
    if isinstance(sample, Pair):
        return (*sample.prompt, *sample.chosen), sample.rejected, sample.tools
    if isinstance(sample, Labelled):
        good, bad = (sample.messages, ()) if sample.good else ((), sample.messages)
        return good, bad, (sample.good, sample.tools)
    if isinstance(sample, Prompt):
        return sample.messages, (), (sample.answer, sample.tools)
    return sample.messages, (), sample.tools


def _joined(turns: Iterable[str]) -> str:
    """Each different turn once: the samples of one conversation repeat its turns."""
    return "\n\n".join(dict.fromkeys(filter(None, turns)))


def _said(message: Message) -> str:
    calls = [json.dumps(call, ensure_ascii=False, sort_keys=True, default=str) for call in message.tool_calls]
    return "\n".join(filter(None, (message.reasoning, message.content, *calls)))
