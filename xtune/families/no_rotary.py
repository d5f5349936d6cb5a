"""For layers of transformers' whose positions come in by another way than rotary embeddings."""

from __future__ import annotations

from torch import Tensor, nn


class NoRotaryEmbedding(nn.Module):
    """Rotation by no angle."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [1, 1, head size]."""
        return x.new_ones(1, 1, self.size), x.new_zeros(1, 1, self.size)
