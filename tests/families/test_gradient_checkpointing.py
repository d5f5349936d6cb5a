"""With gradient checkpointing every architecture has the gradients that it has without."""

from __future__ import annotations

import pytest
import torch

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.model.adapters import attach_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.load import load_model
from xtune.recipe.schema import Lora

LENGTHS = [9, 70, 33]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_what_is_kept_for_them(name, method):
    torch.set_num_threads(1)
    model = load_model(PARITY / name / "checkpoint", dtype="float32", options=options_of(name))
    ids = torch.randint(200, 600, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    if name == "chatglm_6b":
        for start in (0, LENGTHS[0], LENGTHS[0] + LENGTHS[1]):
            ids[0, start + 1 : start + 3] = torch.tensor(
                [model.config.gmask_token_id, model.config.bos_token_id]
            )
    use_packed_attention(model)
    if method == "lora":
        model = attach_adapter(model, Lora(kind="lora", rank=4))
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                torch.nn.init.normal_(weight, std=0.1)
    model.train()

    def gradients():
        kept = 0

        def save(tensor):
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
            logits = model(
                input_ids=ids, position_ids=positions, sample_lengths=LENGTHS, use_cache=False
            ).logits
        logits.float().logsumexp(-1).sum().backward()
        found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
        model.zero_grad()
        return found, kept

    plain, kept = gradients()
    assert model.supports_gradient_checkpointing
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, kept_again = gradients()
    assert kept_again < kept / 2
    assert all(gradient.abs().max() > 0 for name, gradient in plain.items() if "lora_B" in name)
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-6, rtol=1e-5)
