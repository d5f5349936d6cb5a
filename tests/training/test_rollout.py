"""Answers are drawn from what the model says when it is trained on them, whichever others are written beside them:
for every architecture, with padding and cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.data.encoding.encode import Encoded
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.model.log_probs import forward
from xtune.training.layout import Layout
from xtune.training.rollout import Completion, Sampling, sample_completions

STOP, TEMPERATURE = 2, 0.7


def places(model, prompt: np.ndarray, completion: Completion, seed) -> np.ndarray:
    """Where each token lies among the cumulated probabilities, as training computes them, less the random number that
    it was drawn with: a pair of [tokens], at most 0 and at least 0."""
    ids = np.concatenate([prompt, completion.ids])
    batch = Layout(packing=True, pad_id=STOP).collate([Encoded(ids, ids)])
    with torch.no_grad():
        logits = forward(model, batch)[0, len(prompt) - 1 :]
    cumulated = (logits / TEMPERATURE).softmax(-1).double().cumsum(-1).numpy()
    rows, tokens = np.arange(len(completion.ids)), completion.ids
    draws = np.random.default_rng(seed).random(8)[: len(tokens)]
    below = np.where(tokens > 0, cumulated[rows, tokens - 1], 0)
    return np.stack([below - draws, cumulated[rows, tokens] - draws])


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_drawn_from_what_training_computes(name):
    torch.set_num_threads(1)
    model = load_model(PARITY / name / "checkpoint", dtype="float32", options=options_of(name))
    use_packed_attention(model)
    random = np.random.default_rng(0)
    prompts = [random.integers(200, 600, length) for length in (9, 30, 4)]
    if name == "chatglm_6b":
        for prompt in prompts:
            prompt[-2:] = model.config.gmask_token_id, model.config.bos_token_id
    seeds = [[number, 7] for number in range(3)]
    sampling = Sampling(8, TEMPERATURE, [STOP], STOP, batch=2)
    completions = sample_completions(model, prompts, seeds, sampling)
    for prompt, completion, seed in zip(prompts, completions, seeds, strict=True):
        below, above = places(model, prompt, completion, seed)
        assert below.max() < 1e-4
        assert above.min() > -1e-4
