"""LoftQ: adapters beside 4-bit weights that begin as what quantisation has lost (Li et al. 2023, in one round).

PEFT has this for GPUs and transformers' layouts only, and does not reckon with the adapters' scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def make_good_quantisation(adapted: PeftModel, whole: PreTrainedModel) -> None:
    """Set the factors of all adapters so that Q + s B A is as near to W as their rank allows.

    adapted   with the 4-bit weights Q
    whole     the same model with the weights W, on the CPU
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from peft.tuners.lora import Linear4bit

    for name, layer in adapted.get_base_model().named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        quantised = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        lost = whole.get_submodule(name).weight.data.to(quantised) - quantised
        left, singular, right = torch.linalg.svd(lost, full_matrices=False)
        rank = len(a)
        root = (singular[:rank] / layer.scaling["default"]).sqrt()
        a.data = (root[:, None] * right[:rank]).to(a).contiguous()
        b.data = (left[:, :rank] * root).to(b).contiguous()
