"""Which attention a model runs with: transformers' own, or ours for packed rows."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED, PLAIN = "xtune_packed", "xtune_plain"
OWN = "xtune"


def use_packed_attention(
    model: PreTrainedModel, attention: str = "auto", sequence_processes: int = 1, fused: bool = True
) -> None:
    """Make a model keep packed samples apart in training, also where processes share the tokens of a row.

    Flash attention does so by position_ids; elsewhere a function that takes `sample_lengths` is set, which
    needs no mask. Left in place for inference it behaves as sdpa on unpadded input.

    fused   whether kernels of ours and flash attention compute it, or plain PyTorch, sample by sample
    """
    from xtune.model.sequence import check_sequence_parallel

    flash = importlib.util.find_spec("flash_attn") is not None and model.device.type == "cuda"
    flash = flash and takes_flash(type(model), model.config)
    if sequence_processes > 1:
        check_sequence_parallel(model, sequence_processes)
    elif attention == "flash_attention_2" or (attention == "auto" and flash and model.dtype.itemsize == 2):
        model.set_attn_implementation("flash_attention_2")
        return
    register()
    model.set_attn_implementation(PACKED if fused else PLAIN)


def needs_own(model_class: type) -> bool:
    """Whether a model computes attention as none of transformers' functions does."""
    return getattr(model_class, "own_attention", False)


def takes_flash(model_class: type, config) -> bool:
    """Whether flash attention computes what the model needs."""
    supported = getattr(model_class, "_supports_flash_attn", False)
    return supported and not needs_own(model_class) and getattr(config, "position", None) != "alibi"


def register() -> None:
    """Tell transformers of our attention by its names: PACKED and PLAIN make no masks, OWN makes those of sdpa."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, _attention)
    AttentionInterface.register(PLAIN, partial(_attention, fused=False))
    AttentionInterface.register(OWN, _attention)
    AttentionMaskInterface.register(OWN, sdpa_mask)


def _attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling=None,
    dropout=0.0,
    sample_lengths=None,
    sequence_processes=1,
    alibi_slopes=None,
    query_scale=None,
    rotary=None,
    fused=True,
    **kwargs,
):
    """transformers' attention interface: query [rows, heads, tokens, dimension] -> [rows, tokens, heads, dimension].

    sample_lengths   of the samples packed in the one row; without them, sdpa
    sequence_processes   over so many the tokens of the row are spread, each with a stretch of equal length
    alibi_slopes     [heads]: biases to add in packed samples
    query_scale      to multiply queries by, of a shape that broadcasts to theirs
    fused            whether kernels may compute packed samples
    rotary           cos and sin, [rows, keys, dimension], where queries and keys come unrotated; queries are last
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    from xtune.kernels.packed_attention import packed_attention, sample_by_sample
    from xtune.kernels.sequence_parallel import all_heads, all_tokens
    from xtune.model.sequence import sequence_group

    if rotary is not None:
        query, key = _rotated(query, rotary), _rotated(key, rotary)
    if query_scale is not None:
        query = query * query_scale.to(query)
    if sample_lengths is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    group = sequence_group(sequence_processes) if sequence_processes > 1 else None
    if group:
        query, key, value = (
            all_tokens(_enough_heads(each, query, group), group) for each in (query, key, value)
        )
        if alibi_slopes is not None:
            alibi_slopes = alibi_slopes.chunk(group.size())[group.rank()]
    attend = packed_attention if fused else sample_by_sample
    output = attend(query, key, value, sample_lengths, scale=scale, dropout=dropout, slopes=alibi_slopes)
    if group:
        output = all_heads(output, group)
    return output.transpose(1, 2).contiguous(), None


def _enough_heads(states, query, group):
    """Key-value heads that are fewer than the processes, each for as many as share it."""
    heads, needed = states.shape[1], group.size()
    return states if heads % needed == 0 else states.repeat_interleave(query.shape[1] // heads, dim=1)


def _rotated(states, rotary):
    import torch

    cos, sin = (table[:, None, -states.shape[2] :].to(states) for table in rotary)
    half = states.shape[-1] // 2
    return states * cos + torch.cat((-states[..., half:], states[..., :half]), dim=-1) * sin
