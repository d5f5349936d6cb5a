"""Where adapters are put."""

from __future__ import annotations

import re

import pytest

from xtune.errors import RecipeError
from xtune.families import FAMILIES
from xtune.model.adapters import attach_adapter
from xtune.model.load import load_model
from xtune.recipe.schema import Lora, Qlora


@pytest.mark.parametrize(
    ("targets", "kinds"),
    [
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (["down_proj"], {"down_proj"}),
        (r"model\.layers\.\d\.mlp\.(up|gate)_proj", {"up_proj", "gate_proj"}),
        (r".*self_attn.*", {"q_proj", "k_proj", "v_proj", "o_proj"}),  # and the module that holds them
        (r".*(mlp.*|lm_head)", {"gate_proj", "up_proj", "down_proj", "lm_head"}),
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
        ({"targets": r"layers\.0.*"}, "No linear layer matches", "model.layers.0.self_attn.q_proj"),
        ({"targets": r".*embed_tokens"}, "No linear layer matches", "model.layers.0.self_attn.q_proj"),
        (
            {"targets": ["q_proj", "v_porj"]},
            r"^No layer matches 'v_porj'; did you mean v_proj\?\n",
            "down_proj, gate_proj",
        ),
        ({"targets": ["q_proj", "x", "_proj"]}, r"No layer matches 'x'\. No layer .*'_proj'", "down_proj"),
        ({"targets": ["self_attn"]}, "matches what is not linear: LlamaAttention", "down_proj, gate_proj"),
        ({"targets": ["lm_head"], "layers": [0]}, "lm_head is in none", "a regex"),
        ({"targets": ["q_proj", "embed_tokens"], "layers": [0]}, "embed_tokens is in none", "a regex"),
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


def test_what_takes_no_adapter_in_a_model_is_named():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=99, hidden_size=32, state_size=4, num_hidden_layers=1)
    with pytest.raises(RecipeError, match="matches out_proj, which takes no adapter") as raised:
        attach_adapter(MambaForCausalLM(config), Lora(kind="lora"))
    targets = re.findall(r"'(\w+)'", raised.value.fix)
    assert targets == ["dt_proj", "in_proj", "x_proj"]
    attach_adapter(MambaForCausalLM(config), Lora(kind="lora", targets=targets))


@pytest.mark.parametrize(
    ("init", "target", "why"),
    [
        ("pissa", "lm_head", "shares its weights with the embedding"),
        ("olora", "lm_head", "shares its weights with the embedding"),
        ("pissa", "embed_tokens", "is an embedding"),
        ("olora", "embed_tokens", "is an embedding"),
        ("loftq", "embed_tokens", "is an embedding"),
    ],
)
def test_what_cannot_begin_as_part_of_the_weights(tiny_model, init, target, why):
    options = {"rank": 4, "targets": ["q_proj", target], "init": init}
    method = Qlora(kind="qlora", **options) if init == "loftq" else Lora(kind="lora", **options)
    model = load_model(tiny_model)
    before = model.get_input_embeddings().weight.clone()
    with pytest.raises(RecipeError, match=f"{target} {why}") as raised:
        attach_adapter(model, method)
    assert raised.value.where == "method.targets"
    assert before.equal(model.get_input_embeddings().weight)
