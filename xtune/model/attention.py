"""Which attention a model runs with: transformers' own, or ours for packed rows."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "xtune_packed"


def use_packed_attention(model: PreTrainedModel, attention: str = "auto") -> None:
    """Make a model keep packed samples apart in training.

    Flash attention does so by position_ids; elsewhere a function that takes `sample_lengths` is set, which
    needs no mask. Left in place for inference it behaves as sdpa on unpadded input.
    """
    flash = importlib.util.find_spec("flash_attn") is not None and model.device.type == "cuda"
    if attention == "flash_attention_2" or (attention == "auto" and flash):
        model.set_attn_implementation("flash_attention_2")
        return
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, _packed)
    model.set_attn_implementation(PACKED)


def _packed(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, sample_lengths=None, **kwargs
):
    """transformers' attention interface: query [1, heads, tokens, dimension] -> [1, tokens, heads, dimension]."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from xtune.kernels.packed_attention import packed_attention

    if sample_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = packed_attention(query, key, value, sample_lengths, scale=scale, dropout=dropout)
    return output.transpose(1, 2).contiguous(), None
