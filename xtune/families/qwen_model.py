"""Qwen (2023): Qwen2 with what the publisher's code does in inference past the trained length.

Both are identities up to that length, and in training at any length:
    dynamic NTK   rotary embeddings of base θ·α^(d / (d - 2)), where α = 2^ceil(log2(L / trained) + 1) - 1 for a
                  prompt of L tokens; it stays while the answer is written
    log-n         the query at position i > trained is multiplied by log(i) / log(trained)
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding


class QwenRotaryEmbedding(Qwen2RotaryEmbedding):
    """Rotary embeddings with a base of its own for each row. `alpha`: float64 [rows], or None as trained."""

    alpha: Tensor | None = None

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [rows, tokens, head size], in x's dtype."""
        if self.alpha is None:
            return super().forward(x, position_ids)
        size = self.config.head_dim
        theta = self.config.rope_parameters["rope_theta"]
        base = (theta * self.alpha ** (size / (size - 2))).to(x.device, torch.float)
        exponents = torch.arange(0, size, 2, device=x.device, dtype=torch.float) / size
        frequencies = 1.0 / base[:, None] ** exponents
        angles = position_ids[..., None].float() * frequencies[:, None, :]
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


class QwenModel(Qwen2Model):
    """Qwen2's layers. Needs xtune's attention, which takes `query_scale`."""

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.rotary_emb = QwenRotaryEmbedding(config)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs):
        """As Qwen2Model. A prompt's α is kept with the cache, since the answer goes on in it."""
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # newer and older name
        tokens = (kwargs["inputs_embeds"] if input_ids is None else input_ids).shape[1]
        seen = cache.get_seq_length() if cache is not None else 0
        alpha = None
        # A packed row is no text to stretch: its samples are measured as they are trained.
        if not self.training and "sample_lengths" not in kwargs:
            alpha = getattr(cache, "ntk_alpha", None) if seen else self._alpha(tokens, attention_mask)
            if self.config.log_n_attention and seen + tokens > self.config.trained_length:
                kwargs["query_scale"] = self._query_scale(seen, tokens)
        self.rotary_emb.alpha = alpha
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if outputs.past_key_values is not None:
            outputs.past_key_values.ntk_alpha = alpha
        return outputs

    def _alpha(self, tokens: int, attention_mask: Tensor | None) -> Tensor | None:
        trained = self.config.trained_length
        if not self.config.dynamic_ntk or tokens <= trained:
            return None
        if attention_mask is not None and attention_mask.dim() == 2:
            lengths = attention_mask.sum(-1).double()
        else:
            lengths = torch.tensor([tokens], dtype=torch.double)
        return (2 ** torch.ceil(torch.log2(lengths / trained) + 1) - 1).clamp(min=1)

    def _query_scale(self, seen: int, tokens: int) -> Tensor:
        """[1, 1, tokens, 1], float32."""
        positions = torch.arange(seen + 1, seen + tokens + 1, dtype=torch.double)
        trained = torch.tensor(self.config.trained_length, dtype=torch.double)
        scale = torch.where(positions > trained, positions.log() / trained.log(), 1.0)
        return scale.float()[None, None, :, None]


class QwenForCausalLM(Qwen2ForCausalLM):
    """Qwen (2023) in transformers' layout."""

    own_attention = True

    def __init__(self, config: Qwen2Config):
        super().__init__(config)
        self.model = QwenModel(config)
        self.post_init()

    def to_stock(self) -> Qwen2ForCausalLM:
        """This model as transformers has it, for texts up to the trained length."""
        self.config.max_position_embeddings = self.config.trained_length
        for name in ("trained_length", "dynamic_ntk", "log_n_attention"):
            delattr(self.config, name)
        self.__class__ = Qwen2ForCausalLM
        return self
