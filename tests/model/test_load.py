"""Loading: strict, in the type asked for, and 4-bit weights that still let every gradient through."""

import pytest
import torch

from xtune.errors import UsageError
from xtune.messages import Message
from xtune.model.adapters import attach_adapter
from xtune.model.load import load_model
from xtune.recipe.schema import Lora
from xtune.templates.template import find_template


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(tiny_model, dtype):
    model = load_model(tiny_model, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_bits_must_be_known(tiny_model):
    with pytest.raises(UsageError, match="bits"):
        load_model(tiny_model, bits=5)


def gradients(model) -> dict[str, torch.Tensor]:
    ids = torch.arange(100, 140)[None]
    model.train()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_qlora_has_the_gradients_of_lora_on_the_same_weights(tiny_model, tokenizer):
    """Also after the model has answered something, as probes do before training."""
    from bitsandbytes.functional import dequantize_4bit

    from xtune.chat.generate import generate

    quantised, plain = (
        load_model(tiny_model, bits=4, dtype="float32"),
        load_model(tiny_model, dtype="float32"),
    )
    layers = dict(plain.named_modules())
    for name, module in quantised.named_modules():
        if type(module).__name__ == "Linear4bit":
            layers[name].weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    models = []
    for base in (quantised, plain):
        torch.manual_seed(0)
        model = attach_adapter(base, Lora(kind="lora", rank=4))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        models.append(model)
    list(generate(models[0], tokenizer, find_template("chatml"), [Message("user", "Hi")], max_new_tokens=3))
    ours, expected = map(gradients, models)
    assert len(ours) == 2 * 2 * 7
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6)
