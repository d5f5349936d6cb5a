"""Baichuan: LLaMA with, as its config says, ALiBi in place of rotary embeddings and a normalised output layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from xtune.families.family import no_stock_class
from xtune.families.no_rotary import NoRotaryEmbedding
from xtune.kernels.alibi import alibi_bias, alibi_slopes


class BaichuanAlibiModel(LlamaModel):
    """LLaMA's layers with attention with linear biases (Press et al. 2021, https://arxiv.org/abs/2108.12409)."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.rotary_emb = NoRotaryEmbedding(config.hidden_size // config.num_attention_heads)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs):
        """As LlamaModel. The biases go to attention in its mask; for packed samples as slopes, since there
        attention makes the block of each sample itself."""
        embeddings = kwargs.get("inputs_embeds")
        if embeddings is None:
            embeddings = kwargs["inputs_embeds"] = self.embed_tokens(input_ids)
        slopes = alibi_slopes(self.config.num_attention_heads, embeddings.device)
        if kwargs.get("sample_lengths") is not None:
            kwargs["alibi_slopes"] = slopes
        else:
            cache = kwargs.get("cache", kwargs.get("past_key_values"))  # newer and older name
            seen = cache.get_seq_length() if cache is not None else 0
            bias = alibi_bias(slopes, embeddings.shape[1], seen, embeddings.dtype)[None]
            if attention_mask is not None:
                padding = attention_mask[:, None, None, :].to(bias.device) == 0
                # not -inf: rows of padding see nothing else, and would turn to NaN
                bias = bias.masked_fill(padding, torch.finfo(bias.dtype).min)
            attention_mask = bias
        return super().forward(attention_mask=attention_mask, **kwargs)


class NormHead(nn.Linear):
    """An output layer whose rows count by their direction alone; on disk they have lengths.

    Dividing the products by the lengths needs no normalised copy of the weights, and lets gradients through both.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        lengths = torch.linalg.vector_norm(self.weight, dim=1).clamp(min=1e-12)
        return linear(hidden, self.weight) / lengths


class BaichuanForCausalLM(LlamaForCausalLM):
    """Baichuan 13B, and Baichuan2, in transformers' layout."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        if config.position == "alibi":
            self.model = BaichuanAlibiModel(config)
        if config.norm_head:
            self.lm_head = NormHead(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def to_stock(self) -> LlamaForCausalLM:
        """This model as transformers has it, with the output layer normalised once and for all. Raises
        UsageError for ALiBi, which LLaMA has not."""
        if self.config.position == "alibi":
            raise no_stock_class("it has ALiBi in place of rotary embeddings")
        if isinstance(self.lm_head, NormHead):  # a reward model has another head
            self.lm_head.weight.data = normalize(self.lm_head.weight.data.float()).to(self.dtype)
        del self.config.norm_head, self.config.position
        self.__class__ = LlamaForCausalLM
        return self
