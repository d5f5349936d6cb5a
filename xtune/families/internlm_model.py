"""InternLM whose rotary embeddings stretch with the text (dynamic NTK): LLaMA, with keys rotated late.

transformers' LLaMA has the same formula, but keeps keys in the cache as they were rotated when they were new. The
publisher's code keeps them unrotated, and turns all of them by the base of the length that is reached.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from xtune.families.no_rotary import NoRotaryEmbedding


class InternLMModel(LlamaModel):
    """LLaMA's layers, which see unrotated keys. Needs xtune's attention, which takes `rotary`."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.rotary_emb = NoRotaryEmbedding(config.hidden_size // config.num_attention_heads)

    def forward(self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, **kwargs):
        """As LlamaModel. The positions of the keys are kept with the cache."""
        cache = kwargs.get("cache", kwargs.get("past_key_values"))  # newer and older name
        new = kwargs["inputs_embeds"] if input_ids is None else input_ids
        seen = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(seen, seen + new.shape[1], device=new.device)[None]
        keys = torch.cat((cache.key_positions, position_ids), dim=1) if seen else position_ids
        lengths = kwargs.get("sample_lengths") or [keys.shape[1]]
        frequencies = self._frequencies(max(lengths)).to(new.device)
        angles = keys[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        kwargs["rotary"] = angles.cos(), angles.sin()
        outputs = super().forward(input_ids=input_ids, position_ids=position_ids, **kwargs)
        if outputs.past_key_values is not None:
            outputs.past_key_values.key_positions = keys
        return outputs

    def _frequencies(self, length: int) -> Tensor:
        """[head size / 2], for a text of `length` tokens: base · (f·L/M - (f - 1))^(d / (d - 2)) past M."""
        rope, trained = self.config.rope_parameters, self.config.max_position_embeddings
        size, base, factor = self.rotary_emb.size, rope["rope_theta"], rope["factor"]
        if length > trained:
            base *= (factor * length / trained - (factor - 1)) ** (size / (size - 2))
        return 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float) / size)


class InternLMForCausalLM(LlamaForCausalLM):
    """InternLM with dynamic NTK, in transformers' layout."""

    own_attention = True

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model = InternLMModel(config)
        self.post_init()

    def to_stock(self) -> LlamaForCausalLM:
        """This model as transformers has it: the same but in writing past the trained length."""
        self.__class__ = LlamaForCausalLM
        return self
