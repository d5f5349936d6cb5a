"""Dynamic NTK: each sample as if it were alone."""

from __future__ import annotations

import torch

from xtune.families.family import Options
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.model.rope import sample_lengths
from xtune.recipe.schema import RopeScaling

DYNAMIC = Options(rope_scaling=RopeScaling(type="dynamic", factor=4))


def test_lengths_of_samples():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 8, 9]])
    expected = [[3, 3, 3, 2, 2, 1], [4, 4, 4, 4, 1, 1], [10] * 6]  # the last goes on from a cache
    assert sample_lengths(positions).tolist() == expected


def test_packed_padded_and_alone(tiny_model):
    """The model was pretrained on 512 tokens: two samples are stretched, each by its own length."""
    from transformers import AutoModelForCausalLM

    ids = [torch.randint(100, 9000, (1, length)) for length in (700, 40, 600)]
    model = load_model(tiny_model, dtype="float32", options=DYNAMIC)
    alone = []
    with torch.inference_mode():
        for each in ids:  # transformers' own class, new each time: it has seen nothing longer
            config = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
            stock = AutoModelForCausalLM.from_pretrained(tiny_model, rope_parameters=config)
            alone.append(stock(input_ids=each).logits)
        for each, expected in zip(ids, alone, strict=True):
            torch.testing.assert_close(model(input_ids=each).logits, expected, atol=1e-5, rtol=0)
        rows = torch.zeros(3, 700, dtype=torch.long)
        positions, mask = rows.clone(), rows.clone()
        for row, each in enumerate(ids):
            length = each.shape[1]
            rows[row, :length], positions[row, :length], mask[row, :length] = each[0], torch.arange(length), 1
        padded = model(input_ids=rows, position_ids=positions, attention_mask=mask).logits
        use_packed_attention(model)
        packed = model(
            input_ids=torch.cat(ids, dim=1),
            position_ids=torch.cat([torch.arange(each.shape[1])[None] for each in ids], dim=1),
            sample_lengths=[each.shape[1] for each in ids],
            use_cache=False,
        ).logits
    parts = packed.split([each.shape[1] for each in ids], dim=1)
    for row, (part, expected) in enumerate(zip(parts, alone, strict=True)):
        torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(padded[row : row + 1, : expected.shape[1]], expected, atol=1e-5, rtol=0)
