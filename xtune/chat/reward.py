"""Scoring answers with a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtune.chat.load import load_target
from xtune.data.encoding.encode import encode_rendered
from xtune.errors import UsageError
from xtune.messages import Message, under_condition
from xtune.model.reward import ending_at, read_token, score_texts
from xtune.run.target import Target, find_target
from xtune.templates.render import render
from xtune.templates.template import Template

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class RewardModel:
    """A loaded reward model.

    read_at    id of the token at which scores are read; None: the last one
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    template: Template
    read_at: int | None = None

    def score(self, conversations: Sequence[Sequence[Message]], condition: str | None = None) -> list[float]:
        """The score of the last answer of each conversation: higher is better, and only differences mean something.

        condition    what is preferred, as the sources of its recipe had it

        Raises UsageError for a conversation that does not end with an answer, DataError where the chat template cannot
        express it.
        """
        for number, messages in enumerate(conversations):
            if not messages or messages[-1].role != "assistant":
                raise UsageError(
                    f"Conversation {number} does not end with an answer: there is nothing to score.",
                    where="RewardModel.score",
                    fix='Let its last message be one of the role "assistant".',
                )
        rendered = [
            render(under_condition(messages, condition) if condition else messages, template=self.template)
            for messages in conversations
        ]
        texts = encode_rendered(rendered, self.tokenizer, self.template)
        texts = [ending_at(text, self.read_at) for text in texts]
        return score_texts(self.model, texts, self.tokenizer.pad_token_id)


def load_reward_model(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
    bits: int | None = None,
    device: str | None = None,
) -> RewardModel:
    """The reward model at `path`: a run, an adapter, a model directory; also others' with one score.

    base                    of an adapter, where it is not where it was
    dtype, bits, device     as of load_model

    Raises UsageError where it is none, or cannot be loaded.
    """
    target = find_target(str(path), base=None if base is None else str(base))
    if not target.reward:
        raise UsageError(
            f"{path} is no reward model.",
            where="load_reward_model",
            fix='Name the run of a recipe with objective = "reward", or a reward model\'s directory.',
        )
    model, tokenizer = load_target(target, dtype=dtype, bits=bits, device=device)
    return ready(model, target, tokenizer)


def ready(model: PreTrainedModel, target: Target, tokenizer: PreTrainedTokenizerFast) -> RewardModel:
    """A loaded model of `target`, ready to score."""
    return RewardModel(model, tokenizer, target.template, read_token(tokenizer, target.read_at))
