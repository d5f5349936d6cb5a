"""Every architecture loads in 4 bits from its publisher's layout, for QLoRA."""

from __future__ import annotations

import pytest
import torch

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.model.adapters import attach_adapter
from xtune.model.load import load_model
from xtune.recipe.schema import Lora


@pytest.mark.parametrize("name", NAMES)
def test_four_bits_learn(name):
    torch.set_num_threads(1)
    model = load_model(PARITY / name / "checkpoint", bits=4, options=options_of(name))
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    assert model.lm_head.weight.is_floating_point()
    model = attach_adapter(model, Lora(kind="lora", rank=4, alpha=8)).train()
    ids = torch.arange(200, 232)[None]
    if name == "chatglm_6b":
        ids[0, 6:8] = torch.tensor([model.config.gmask_token_id, model.config.bos_token_id])
    model(input_ids=ids, labels=ids).loss.backward()
    moved = [weight for key, weight in model.named_parameters() if "lora_B" in key]
    assert all(weight.grad.abs().max() > 0 for weight in moved)
