"""With its fused kernels, every architecture has the losses and gradients that it has in plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from tests.families.conftest import NAMES, PARITY, options_of
from xtune.data.batches.collate import collate
from xtune.data.encoding.encode import NO_LABEL, Encoded
from xtune.model.adapters import attach_adapter
from xtune.model.attention import use_packed_attention
from xtune.model.fused import fuse
from xtune.model.load import load_model
from xtune.model.log_probs import label_losses
from xtune.recipe.schema import Lora

KERNELS = ["loss", "lora", "mlp", "norm", "attention"]
# What transformers computes by classes that none of the kernels is made for.
UNFUSED = {
    "chatglm_6b": {"mlp", "norm", "attention"},
    **{name: {"mlp", "attention"} for name in ("chatglm2", "chatglm2_32k", "chatglm3", "glm4")},
    **{name: {"loss"} for name in ("baichuan2_7b", "baichuan2_13b")},
}


def samples(name: str) -> list[Encoded]:
    found = []
    for number, length in enumerate([9, 40, 3, 33]):
        ids = torch.randint(200, 600, (length,), generator=torch.Generator().manual_seed(number)).numpy()
        labels = ids.copy()
        labels[: length // 2] = NO_LABEL
        found.append(Encoded(ids, labels))
    return found


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients(name, packing, bits):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load_model(PARITY / name / "checkpoint", dtype="float32", options=options_of(name), bits=bits)
    if packing:
        use_packed_attention(model)
    model = attach_adapter(model, Lora(kind="lora", rank=4, alpha=8)).train()
    learnt = {key: weight for key, weight in model.named_parameters() if weight.requires_grad}
    for weight in learnt.values():
        torch.nn.init.normal_(weight, std=0.1)
    texts = samples(name)
    if name == "chatglm_6b":
        for text in texts:
            text.input_ids[1:3] = model.config.gmask_token_id, model.config.bos_token_id
    batch = collate(texts, packing=packing, pad_id=0)
    found = []
    for kernels in ([], KERNELS):
        unfused = fuse(model, kernels)
        losses = label_losses(model, batch)
        found.append([losses, *torch.autograd.grad(losses.mean(), learnt.values())])
    assert set(unfused) == UNFUSED.get(name, set())
    for one, plain, fused in zip(["losses", *learnt], *found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item(), msg=one)
