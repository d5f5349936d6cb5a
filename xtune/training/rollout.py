"""Answers that the model being trained gives to prompts: what online objectives learn from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from xtune.model.attention import OWN, PACKED, PLAIN
from xtune.ranks import ranks
from xtune.training.gather import whole_weights
from xtune.training.group import gathered


@dataclass(frozen=True)
class Completion:
    """An answer. `ids` int64 [tokens], the stop token with them where the model wrote one: `ended`."""

    ids: np.ndarray
    ended: bool


@dataclass(frozen=True)
class Sampling:
    """How answers are written: from softmax(logits / temperature), until one of `stop_ids` or max_new_tokens.

    batch   answers that are written at once
    """

    max_new_tokens: int
    temperature: float
    stop_ids: Sequence[int]
    pad_id: int
    batch: int


def sample_completions(
    model: torch.nn.Module,
    prompts: Sequence[np.ndarray],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
    nothing: np.ndarray | None = None,
) -> list[Completion]:
    """A completion of each prompt, int [tokens].

    nothing   a prompt to answer for nothing, where other processes have more

    Each is drawn with random numbers of its own, from its seed: which others are written beside it, or in which
    process, changes nothing but rounding. All processes of a run have to call this equally often: where the weights
    are spread over them, each token takes all of them.
    """
    # Like lengths together, for little padding.
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    parts = [order[start : start + sampling.batch] for start in range(0, len(order), sampling.batch)]
    if ranks() > 1:
        parts += [[]] * (max(gathered(len(parts))) - len(parts))
    completions: list[Completion | None] = [None] * len(prompts)
    with _generating(model) as whole:
        for part in parts:
            rows = [prompts[number] for number in part] or [nothing]
            own = [seeds[number] for number in part] or [[0]]
            written = _write(whole, rows, own, sampling)
            for number, ids in zip(part, written, strict=False):
                completions[number] = _completion(ids, sampling)
    return completions


@contextmanager
def _generating(model: torch.nn.Module) -> Iterator[PreTrainedModel | PeftModel]:
    """The model, unwrapped, as it answers best: no dropout, masks for padded rows, and none of what its publisher's
    generation_config.json adds to sampling."""
    whole = extract_model_from_parallel(model)
    base = whole.get_base_model() if isinstance(whole, PeftModel) else whole
    training, defaults, attention = model.training, base.generation_config, base.config._attn_implementation
    base.generation_config = GenerationConfig()
    if attention in (PACKED, PLAIN):
        base.set_attn_implementation(OWN)
    model.eval()
    try:
        with torch.no_grad(), whole_weights(whole):
            yield whole
    finally:
        model.train(training)
        base.generation_config = defaults
        if attention in (PACKED, PLAIN):
            base.set_attn_implementation(attention)


def _write(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[np.ndarray],
    seeds: Sequence[Sequence[int]],
    sampling: Sampling,
) -> np.ndarray:
    """int64 [prompts, tokens]: the answers, whatever follows a stop token with them."""
    width = max(map(len, prompts))
    ids = np.full((len(prompts), width), sampling.pad_id, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    draws = np.stack([np.random.default_rng(list(seed)).random(sampling.max_new_tokens) for seed in seeds])
    written = model.generate(
        input_ids=torch.from_numpy(ids).to(model.device),
        attention_mask=torch.from_numpy(mask).to(model.device),
        do_sample=False,  # _Draw leaves one token to choose
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=list(sampling.stop_ids),
        pad_token_id=sampling.pad_id,
        use_cache=True,
        logits_processor=[_Draw(torch.from_numpy(draws).to(model.device), width, sampling.temperature)],
    )
    return written[:, width:].cpu().numpy()


class _Draw(LogitsProcessor):
    """Leaves the token at which the cumulated probabilities pass a random number.

    draws   float64 [rows, most new tokens] in [0, 1)
    width   of the prompts
    """

    def __init__(self, draws: torch.Tensor, width: int, temperature: float):
        self.draws, self.width, self.temperature = draws, width, temperature

    def __call__(self, input_ids, scores):
        probabilities = (scores.float() / self.temperature).softmax(-1)
        cumulated = probabilities.cumsum(-1, dtype=torch.float64)
        number = input_ids.shape[1] - self.width
        passed = self.draws[:, number : number + 1] * cumulated[:, -1:]
        tokens = torch.searchsorted(cumulated, passed, right=True)
        return torch.full_like(scores, -math.inf).scatter(1, tokens, 0.0)


def _completion(ids: np.ndarray, sampling: Sampling) -> Completion:
    (stops,) = np.nonzero(np.isin(ids, sampling.stop_ids))
    return Completion(ids[: stops[0] + 1], True) if len(stops) else Completion(ids, False)
