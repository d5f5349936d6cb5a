"""Where adapters are put."""

from __future__ import annotations

import pytest

from xtune.errors import RecipeError
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
        (r"model\.layers\.\d\.mlp\.(up|gate)_proj", {"up_proj", "gate_proj"}),
    ],
)
def test_targets(tiny_model, targets, kinds):
    (family,) = (family for family in FAMILIES if family.name == "llama")
    model = attach_adapter(load_model(tiny_model), Lora(kind="lora", targets=targets), family.lora_targets)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert {name.split(".")[-4] for name in names} == kinds


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["q_proj", "up_proj"]])
def test_layers(tiny_model, targets):
    model = attach_adapter(load_model(tiny_model), Lora(kind="lora", targets=targets, layers=[1]))
    whole = attach_adapter(load_model(tiny_model), Lora(kind="lora", targets=targets))
    names, every = ({n for n, w in m.named_parameters() if w.requires_grad} for m in (model, whole))
    assert names == {name for name in every if ".layers.1." in name}


@pytest.mark.parametrize(
    ("options", "message", "fix"),
    [
        ({"targets": r"layers\.0.*"}, "No layer matches", "model.layers.0.self_attn.q_proj"),
        ({"targets": ["qq_proj"]}, "No layer matches", "down_proj, gate_proj"),
        (
            {"targets": r".*self_attn"},
            "matches what is not linear: LlamaAttention",
            "model.layers.0.self_attn.q_proj",
        ),
        ({"layers": [0, 2]}, "names 2, and the model has layers 0 to 1", "from 0"),
        ({"layers": [-1]}, "names -1", "from 0"),
        ({"rank": 33, "init": "pissa"}, "k_proj has only rank 32", "default"),
        ({"rank": 33, "init": "olora"}, "k_proj has only rank 32", "default"),
    ],
)
def test_what_the_model_has_not(tiny_model, options, message, fix):
    with pytest.raises(RecipeError, match=message) as raised:
        attach_adapter(load_model(tiny_model), Lora(kind="lora", **options))
    assert fix in raised.value.fix
