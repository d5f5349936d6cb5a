"""The weights that an adapter saw in training beside a model in 4 bits: each rounded to NF4, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Nf4:
    """How a model was quantised (QLoRA, arXiv:2305.14314).

    layers                 whose weights were, by name
    dtype                  of the weights before, and of the products with them
    double_quantization    whether the scales were quantised as well
    """

    layers: frozenset[str]
    dtype: torch.dtype
    double_quantization: bool = True

    def seen(self, weight: Tensor) -> Tensor:
        """A weight [rows, columns] as training computed with it, float32."""
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        four_bits, state = quantize_4bit(
            weight.to(self.dtype).contiguous(),
            blocksize=64,
            compress_statistics=self.double_quantization,
            quant_type="nf4",
        )
        return dequantize_4bit(four_bits, state).to(self.dtype).float()


def quantised_layers(model: PreTrainedModel) -> frozenset[str]:
    """The layers whose weights load_model(bits=4) quantises: the linear ones, without the output layer."""
    from torch import nn
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = get_keys_to_not_convert(model)
    return frozenset(
        name
        for name, module in model.named_modules()
        if type(module) is nn.Linear and should_convert_module(name, kept)
    )
