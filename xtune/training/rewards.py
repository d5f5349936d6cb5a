"""What answers are judged by: functions of the user's, the row's own answer, reward models."""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from xtune.data.own_format import load_function
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.recipe.online_schema import RewardTerm
from xtune.run.target import find_target


@dataclass(frozen=True)
class Question:
    """A prompt, and what its answers are judged with.

    row         the columns of its record, with "messages" and "answer" where they have no such names
    condition   that of its source
    place       file:line of its record
    """

    messages: tuple[Message, ...]
    answer: Any
    row: dict[str, Any]
    condition: str | None
    place: str

    @classmethod
    def of(cls, row: str, condition: str | None, place: str) -> Question:
        """From a row of Dataset.rows."""
        read = json.loads(row)
        messages = tuple(
            Message(**turn | {"tool_calls": tuple(turn.get("tool_calls", ()))}) for turn in read["messages"]
        )
        row = {"messages": read["messages"], "answer": read["answer"], **read["columns"]}
        return cls(messages, read["answer"], row, condition, place)


_TOO_LARGE = 1e38  # for float32
Score = Callable[[Sequence[Question], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Judge:
    """One of the rewards; `score` takes as many questions as answers."""

    name: str
    weight: float
    score: Score


def load_judges(rewards: Sequence[RewardTerm]) -> list[Judge]:
    """The rewards of a recipe, ready to score. Raises UsageError where one is not there."""
    judges: list[Judge] = []
    for reward in rewards:
        if reward.model:
            name, score = Path(reward.model).name, _model(reward.model, reward.condition)
        elif reward.function == "answer":
            name, score = "answer", _has_answer
        else:
            function = _find_function(reward.function)
            name, score = function.__name__, _function(function, reward.function)
        same = sum(judge.name.partition("#")[0] == name for judge in judges)
        judges.append(Judge(f"{name}#{same + 1}" if same else name, reward.weight, score))
    return judges


def check_rewards(rewards: Sequence[RewardTerm]) -> None:
    """Raise UsageError where a function or a model is not there, before anything large is loaded."""
    for reward in rewards:
        if reward.model and not find_target(reward.model).reward:
            raise UsageError(
                f"{reward.model} is no reward model.",
                where="train.objective.rewards",
                fix='Name the run of a recipe with objective = "reward", or a reward model\'s directory.',
            )
        if reward.function not in (None, "answer"):
            _find_function(reward.function)


def check_answer(question: Question) -> None:
    """Raise UsageError where a prompt lacks what the reward "answer" compares with."""
    if question.answer is None:
        raise UsageError(
            'The reward "answer" compares with the answer of the row, which has none.',
            where=question.place,
            fix="Give it one (a column `answer`), or write a reward of your own.",
        )


def _find_function(reference: str) -> Callable[[str, dict[str, Any]], float]:
    if ".py:" not in reference:
        raise UsageError(
            f'There is no reward "{reference}".',
            where="train.objective.rewards",
            fix='Give "answer", a function, or "your_file.py:your_function".',
        )
    return load_function(reference)


def _function(function: Callable[[str, dict[str, Any]], float], reference: str) -> Score:
    file, _, name = reference.rpartition(":")

    def score(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        return [one(question, answer) for question, answer in zip(questions, answers, strict=True)]

    def one(question: Question, answer: str) -> float:
        try:
            value = function(answer, dict(question.row))
        except Exception as error:  # whatever the user's code raises
            lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == file]
            where = f" in line {lines[-1]}" if lines else ""
            raise _bad(name, f"raised {type(error).__name__}{where}: {error}", question, answer) from error
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) < _TOO_LARGE:  # NaN neither
            raise _bad(name, f"gave {value!r}, not a number", question, answer)
        return number

    return score


def _bad(name: str, what: str, question: Question, answer: str) -> UsageError:
    shown = repr(answer if len(answer) <= 200 else f"{answer[:200]}...")
    return UsageError(
        f"The reward {name} {what[:300]}",
        where=f"{question.place}, for the answer {shown}",
        fix="Put the function right, then go on with: xtune train --resume RUN",
    )


def _model(path: str, condition: str | None) -> Score:
    from xtune.chat.reward import load_reward_model

    model = load_reward_model(path)

    def score(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
        conditions = [condition or question.condition for question in questions]
        scores = [0.0] * len(answers)
        for each in dict.fromkeys(conditions):
            mine = [number for number, other in enumerate(conditions) if other == each]
            asked = [(*questions[n].messages, Message("assistant", answers[n])) for n in mine]
            for number, value in zip(mine, model.score(asked, each), strict=True):
                scores[number] = float(value)
        return scores

    return score


def _has_answer(questions: Sequence[Question], answers: Sequence[str]) -> list[float]:
    return [float(same(answer, str(q.answer))) for q, answer in zip(questions, answers, strict=True)]


_NUMBER = re.compile(
    r"(?:(?<!\d)-)?(?:\d+/0*[1-9]\d*"
    r"|(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<!\d)\.\d+)(?:[eE][-+]?\d{1,2}(?!\d))?)"
)


def same(answer: str, expected: str) -> bool:
    """Whether two texts come to the same: what is in the last \\boxed{}, else the last number, else all of it."""
    one, other = _final(answer), _final(expected)
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return Fraction(one.replace(",", "")) == Fraction(other.replace(",", ""))
    return one.casefold() == other.casefold()


def _final(text: str) -> str:
    _, boxed, rest = text.rpartition("\\boxed{")
    if boxed:
        depth = 1
        for end, character in enumerate(rest):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if depth == 0:
                return rest[:end].strip()
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip().rstrip(".")
