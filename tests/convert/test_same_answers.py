"""Telling whether two models answer alike, from the logits of one at the answers of the other."""

import pytest
import torch

from xtune.convert.compare import logits_of, observe, same_answers
from xtune.model.load import load_model

PROMPTS = [[7, 8, 9], [30], [*range(40, 60)], [11, 400, 7]]


@pytest.mark.parametrize("noise", [0, 0.002, 0.02, 0.5])
def test_answers_are_told_to_be_the_same_where_both_models_write_them(tiny_model, noise):
    model = load_model(str(tiny_model), dtype="float32")
    before = observe(model, PROMPTS, stops=[2], pad=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += noise * torch.randn_like(weight) * weight.std()
    after = observe(model, PROMPTS, stops=[2], pad=0)
    same = sum(one == other for one, other in zip(before.answers, after.answers, strict=True))
    assert same_answers(before, logits_of(model, before.texts, 0)) == same
    assert (same == len(PROMPTS)) == (noise == 0) or 0 < noise < 0.1
