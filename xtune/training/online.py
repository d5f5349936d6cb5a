"""Online reinforcement learning (GRPO, RLOO): in each step the model answers prompts, is told how good its answers
are, and learns from them once. The losses are in policy_gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback

from xtune.chat.generate import context
from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.errors import UsageError
from xtune.model.log_probs import kept_labels, label_losses, text_numbers
from xtune.ranks import rank
from xtune.recipe.online_schema import Grpo, Rloo
from xtune.training.group import gathered
from xtune.training.json_lines import append, keep_until
from xtune.training.layout import Layout, on_device
from xtune.training.objective import Loss
from xtune.training.policy_gradient import Answers, grpo, rloo
from xtune.training.rewards import Judge, Question
from xtune.training.rollout import Completion, Sampling, sample_completions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Group:
    """The answers to a prompt.

    rewards   float32 [answers], weighted and added up
    each      the same of each judge, by name and without weight
    """

    completions: list[Completion]
    rewards: torch.Tensor
    each: dict[str, list[float]]


@dataclass
class Online:
    """GRPO, the mean over all tokens of the step's answers (as in DAPO, Yu et al. 2025); RLOO, over its answers.

    conditions   of the data's sources
    file         where some answers of each step are written, to read them
    """

    options: Grpo | Rloo
    dataset: Dataset
    layout: Layout
    tokenizer: PreTrainedTokenizerFast
    sampling: Sampling
    judges: list[Judge]
    conditions: list[str | None]
    seed: int
    file: Path
    _groups: dict[int, list[Group]] = field(default_factory=dict)
    _factor: float = 1.0
    _shown: bool = False

    def texts(self, sample: int) -> list[Encoded]:
        """The prompt."""
        return self.dataset.texts(sample)

    def longest_texts(self, sample: int) -> list[Encoded]:
        """The prompt with answers as long as they may be."""
        answer = Completion(np.zeros(self.sampling.max_new_tokens, np.int64), ended=False)
        return [self._answered(sample, answer)] * self.options.completions

    def weight(self, samples: Sequence[int]) -> float:
        """Prompts."""
        return len(samples)

    def loss(self, model, batch: dict[str, Any]) -> Loss:
        """Also told: the reward and each part of it, the deviation among answers to one prompt, tokens of an answer,
        the share of answers that were cut off, the divergence from the model before training per token."""
        if "share" in batch:
            samples, seen = ([*chain(*batch.get(name, []))] for name in ("share", "seen"))
            self._answer(model, samples, seen or [0] * len(samples), batch.get("step"))
        groups = [self._groups[number].pop(0) for number in batch["samples"]]
        completions = [completion for group in groups for completion in group.completions]
        tensors = self._tensors(batch, completions)
        before = self._before(model, tensors) if self.options.kl else None
        log_probs, owners = self._log_probs(model, tensors)
        if not groups:
            return Loss(log_probs.sum())
        answers = Answers(
            rewards=torch.stack([group.rewards for group in groups]).to(log_probs),
            learnt=torch.tensor([self._is_learnt(one) for one in completions]).to(log_probs),
            log_probs=log_probs,
            owners=owners,
            before=before,
        )
        total, divergence = (grpo if self.options.kind == "grpo" else rloo)(self.options, answers)
        figures = _figures(groups)
        if divergence is not None:
            figures["kl"] = divergence.detach().sum(), len(divergence)
        return Loss(total * self._factor, figures)

    def _answer(self, model, samples: Sequence[int], seen: Sequence[int], step: int | None) -> None:
        """Have all the samples answered, and the answers judged. Without a step, they are held-out ones.

        seen    how often each was answered in this step already
        """
        each = self.options.completions
        prompts, seeds, questions = [], [], []
        for number, before in zip(samples, seen, strict=True):
            prompts += [self.dataset.texts(number)[0].input_ids] * each
            moment = (self.seed, 0 if step is None else step + 1, number, before)
            seeds += [(*moment, answer) for answer in range(each)]
            questions += [self.question(number)] * each
        completions = sample_completions(
            model, prompts, seeds, self.sampling, nothing=self.dataset.texts(0)[0].input_ids
        )
        answers = [self._text(completion) for completion in completions]
        scores = {judge.name: judge.score(questions, answers) for judge in self.judges}
        weighted = [np.multiply(judge.weight, scores[judge.name]) for judge in self.judges]
        rewards = torch.from_numpy(np.sum(weighted, axis=0)).float()
        self._groups = defaultdict(list)
        for number, start in zip(samples, range(0, len(answers), each), strict=True):
            span = slice(start, start + each)
            own = {name: values[span] for name, values in scores.items()}
            self._groups[number].append(Group(completions[span], rewards[span], own))
        if self.options.kind == "grpo":
            self._factor = _over_all(len(samples), sum(len(c.ids) for c in completions if self._is_learnt(c)))
        else:
            self._factor = 1 / each
        if step is not None and rank() == 0:
            self._show(step, questions, answers, rewards.tolist(), scores)

    def question(self, number: int) -> Question:
        """What its answers are judged with."""
        condition = self.conditions[self.dataset.source_of[number]]
        return Question.of(self.dataset.rows[number], condition, self.dataset.source(number))

    def _text(self, completion: Completion) -> str:
        # Not every stop token is a special one.
        ids = completion.ids[:-1] if completion.ended else completion.ids
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _is_learnt(self, completion: Completion) -> bool:
        return completion.ended or not self.options.mask_truncated

    def _show(self, step: int, questions, answers, rewards, scores) -> None:
        if not self._shown:
            keep_until(self.file, step)  # a resumed run writes the later ones again
            self._shown = True
        lines = [
            {
                "step": step + 1,
                "prompt": questions[number].messages[-1].content,
                "answer": answers[number],
                "reward": rewards[number],
                "rewards": {name: values[number] for name, values in scores.items()},
            }
            for number in self._to_show(len(answers))
        ]
        append(self.file, *lines)

    def _to_show(self, count: int) -> list[int]:
        """Of the answers of a step, the first two to each of the first four prompts."""
        each = self.options.completions
        return [prompt + answer for prompt in range(0, count, each)[:4] for answer in range(2)]

    def _tensors(self, batch: dict[str, Any], completions: Sequence[Completion]) -> dict[str, Any]:
        """The prompts with their answers, which are the labels; the batch itself where there is none."""
        if not completions:
            return batch
        samples = np.repeat(batch["samples"], self.options.completions)
        texts = map(self._answered, samples.tolist(), completions)
        return on_device(self.layout.collate(list(texts)), batch["input_ids"].device)

    def _answered(self, sample: int, completion: Completion) -> Encoded:
        prompt = self.dataset.texts(sample)[0].input_ids
        labels = np.concatenate([np.full_like(prompt, NO_LABEL), completion.ids])
        return Encoded(np.concatenate([prompt, completion.ids]), labels)

    def _log_probs(self, model, tensors: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """log π of each token of the answers at the sampling temperature, float32 [tokens], and its text."""
        losses = label_losses(model, tensors, self.options.temperature)
        labels = kept_labels(tensors).flatten()
        return -losses[labels != NO_LABEL], text_numbers(tensors).flatten()[labels != NO_LABEL]

    @torch.no_grad()
    def _before(self, model, tensors: dict[str, Any]) -> torch.Tensor:
        """The same log π of the model before training: the base, with its adapter off."""
        adapted = extract_model_from_parallel(model)
        with adapted.disable_adapter():
            return self._log_probs(adapted, tensors)[0]


class CheckPrompts(TrainerCallback):
    """Refuses prompts that leave no room for an answer, before the first step rather than at theirs.

    longest    tokens of the longest prompt of the run
    """

    def __init__(self, longest: int, max_new_tokens: int):
        self.longest, self.max_new_tokens = longest, max_new_tokens

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        room = context(extract_model_from_parallel(model))
        if self.longest + self.max_new_tokens > room:
            raise UsageError(
                f"A prompt of {self.longest} tokens with an answer of {self.max_new_tokens} is longer than the "
                f"{room} tokens that the model reads.",
                where="train.objective.max_new_tokens",
                fix="Lower it, or data.max_length, which longer prompts are left out by.",
            )


def _over_all(prompts: int, tokens: int) -> float:
    """Prompts of all processes by their tokens."""
    everyones = gathered((prompts, tokens))
    return sum(one for one, _ in everyones) / max(1, sum(one for _, one in everyones))


def _figures(groups: Sequence[Group]) -> dict[str, tuple[float, int]]:
    completions = [completion for group in groups for completion in group.completions]
    count = len(completions)
    each = {
        f"rewards/{name}": (sum(sum(group.each[name]) for group in groups), count) for name in groups[0].each
    }
    return {
        "reward": (sum(float(group.rewards.sum()) for group in groups), count),
        "reward_std": (sum(float(group.rewards.std()) for group in groups), len(groups)),
        **(each if len(each) > 1 else {}),
        "completion_length": (sum(len(completion.ids) for completion in completions), count),
        "truncated": (sum(not completion.ended for completion in completions), count),
    }
