"""Whether two models say the same: logits and greedy answers on a few prompts, before and after a conversion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Behaviour:
    """What a model says to some prompts.

    texts     ids of each prompt and the answer that the logits are of
    answers   ids of the model's own greedy answer to each prompt, ANSWER_TOKENS at most
    logits    for each text, float32 [tokens, vocabulary] on the CPU
    """

    texts: list[list[int]]
    answers: list[list[int]]
    logits: list[torch.Tensor]


def observe(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, stops: Sequence[int], pad: int
) -> Behaviour:
    """Let a model answer prompts (token ids) in one batch."""
    answers = _greedy(model, prompts, stops, pad)
    texts = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    return Behaviour(texts, answers, logits_of(model, texts, pad))


def same_answers(expected: Behaviour, logits: Sequence[torch.Tensor]) -> int:
    """How many of the answers a model with these logits at the same texts would give too: those of which each token is
    its likeliest after the ones before."""
    return sum(
        row[-len(answer) - 1 : -1].argmax(-1).tolist() == answer
        for answer, row in zip(expected.answers, logits, strict=True)
    )


def largest_difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """The largest absolute difference between logits of the same texts; NaN or infinite where either is."""
    import torch

    return torch.stack([(a - b).abs().max() for a, b in zip(one, other, strict=True)]).max().item()


def logits_of(model: PreTrainedModel, texts: Sequence[Sequence[int]], pad: int) -> list[torch.Tensor]:
    """Logits at every token of each text: float32 [tokens, vocabulary]. Padded right, so positions need no care."""
    import torch

    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts], device=model.device)
    mask = torch.tensor(
        [[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=model.device
    )
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().cpu()
    return [row[: len(text)] for row, text in zip(logits, texts, strict=True)]


def _greedy(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], stops: Sequence[int], pad: int
) -> list[list[int]]:
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor(
        [[*[pad] * (longest - len(prompt)), *prompt] for prompt in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=list(stops),
            pad_token_id=pad,
        )
    return [_until_stop(row, stops) for row in output[:, longest:].tolist()]


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: end + 1]
