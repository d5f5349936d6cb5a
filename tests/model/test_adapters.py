"""Where adapters are put."""

from __future__ import annotations

import pytest

from xtune.families import FAMILIES
from xtune.model.adapters import attach_adapter
from xtune.model.load import load_model
from xtune.recipe.schema import Lora


@pytest.mark.parametrize(
    ("targets", "kinds"),
    [
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (["down_proj"], {"down_proj"}),
    ],
)
def test_targets(tiny_model, targets, kinds):
    (family,) = (family for family in FAMILIES if family.name == "llama")
    model = attach_adapter(load_model(tiny_model), Lora(kind="lora", targets=targets), family.lora_targets)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert {name.split(".")[-4] for name in names} == kinds
