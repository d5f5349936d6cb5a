"""Dynamic NTK, sample by sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def stretch_each_sample(model: PreTrainedModel) -> None:
    """Let each sample of a batch be stretched by its own length, where the model's RoPE scaling is "dynamic".

    transformers stretches all of a batch as its longest sample, and shorter ones that come afterwards too: what a
    sample is learnt with would hang on its neighbours in the packed row, and on what came before a resumed run.
    """
    for module in model.modules():
        if getattr(module, "rope_type", None) == "dynamic":
            module.register_forward_hook(_each_by_its_length, with_kwargs=True)


def _each_by_its_length(rotary, args, kwargs, _output):
    """In place of cos and sin of a whole batch: [rows, tokens, …], in which each sample has those that it has alone."""
    import torch

    x = args[0] if args else kwargs["x"]
    positions = args[1] if len(args) > 1 else kwargs["position_ids"]
    lengths = sample_lengths(positions).clamp(min=rotary.config.max_position_embeddings)
    cos = sin = None
    for length in lengths.unique().tolist():
        rotary.max_seq_len_cached = 0  # so that frequencies are computed anew
        parts = rotary.forward(x, positions.clamp(max=length - 1))
        if cos is None:
            cos, sin = parts
        else:
            these = (lengths == length)[..., None]
            cos, sin = (torch.where(these, part, old) for part, old in zip(parts, (cos, sin), strict=True))
    return cos, sin


def sample_lengths(positions: Tensor) -> Tensor:
    """The length of the sample that each token belongs to, where positions begin at 0: int64 [rows, tokens]."""
    sample = (positions == 0).cumsum(-1)
    last = positions.new_zeros(len(positions), positions.shape[1] + 1).scatter_reduce(
        -1, sample, positions, "amax"
    )
    return last.gather(-1, sample) + 1
