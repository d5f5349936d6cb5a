"""Packed into one row, every architecture gives each sample what it gives it alone."""

from __future__ import annotations

import pytest
import torch

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model

LENGTHS = [9, 70, 1, 33]  # one past the trained length of the fixtures, one of a single token


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_packed_logits_are_those_of_each_sample_alone(name, training):
    torch.set_num_threads(1)
    model = load_model(PARITY / name / "checkpoint", dtype="float32", options=options_of(name)).train(
        training
    )
    generator = torch.Generator().manual_seed(0)
    lengths = [max(length, 3) for length in LENGTHS] if name == "chatglm_6b" else LENGTHS
    # InternLM stretches its rotary embeddings for the longest of a row, Qwen a text that it answers but none that it
    # learns: alike only within the trained length.
    if "internlm" in name or not training:
        lengths = [min(length, 60) for length in lengths]
    samples = [torch.randint(200, 600, (length,), generator=generator) for length in lengths]
    if name == "chatglm_6b":
        for sample in samples:
            sample[1:3] = torch.tensor([model.config.gmask_token_id, model.config.bos_token_id])
    with torch.no_grad():
        alone = [model(input_ids=sample[None], use_cache=False).logits[0] for sample in samples]
        use_packed_attention(model)
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
        packed = model(
            input_ids=torch.cat(samples)[None],
            position_ids=positions,
            sample_lengths=lengths,
            use_cache=False,
        ).logits[0]
    assert (packed - torch.cat(alone)).abs().max() < 1e-5
