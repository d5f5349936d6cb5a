"""Rows that one model writes together, a token at a time: new ones join between two tokens, finished ones leave.

columns      0 1 2 3 4 5        a row that joins is read by itself; then its keys and values
row, old     a b c d e f        stand beside the others', with padding in front of the shorter
row, new     - - - x y z
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import CausalLMOutputWithPast

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
"""transformers 5.24 renamed the argument."""


class Batch:
    """The keys and values of some rows, and which of their columns are no padding: bool [rows, columns]."""

    def __init__(self, model: PreTrainedModel):
        """model: as `forward` is called, with an adapter or without"""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._model = model
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self._config = base.config
        self._plain = keeps_only_keys(self._config) and not stretches_by_longest(base)
        self._cache: DynamicCache | None = None
        self._present = torch.ones(0, 0, dtype=torch.bool, device=model.device)

    def __len__(self) -> int:
        return len(self._present)

    @property
    def takes_more(self) -> bool:
        """Whether another row can join: always an empty batch, and those whose model keeps nothing else than keys and
        values of what it has read."""
        return not len(self) or (self._plain and vars(self._cache).keys() == vars(DynamicCache()).keys())

    def join(self, prompt: Tensor) -> Tensor:
        """Read a prompt, int64 [tokens], as the last row. Returns its next token's logits, float32 [vocabulary]."""
        cache = DynamicCache() if self._plain else DynamicCache(config=self._config)
        output = self._model(
            input_ids=prompt[None], use_cache=True, logits_to_keep=1, return_dict=True, **{CACHE: cache}
        )
        present = torch.ones(1, len(prompt), dtype=torch.bool, device=prompt.device)
        if not len(self):
            self._cache, self._present = cache, present
        else:
            width = max(self._present.shape[1], len(prompt))
            # a layer that is not initialized uses those of another
            pairs = [
                (a, b) for a, b in zip(self._cache.layers, cache.layers, strict=True) if a.is_initialized
            ]
            keys = [_stacked(layer.keys, new.keys, width, axis=-2) for layer, new in pairs]
            values = [_stacked(layer.values, new.values, width, axis=-2) for layer, new in pairs]
            for (layer, _), its_keys, its_values in zip(pairs, keys, values, strict=True):
                # only now: where memory ran out above, the batch is as it was
                layer.keys, layer.values = its_keys, its_values
            self._present = _stacked(self._present, present, width, axis=-1)
        return output.logits[0, -1].float()

    def step(self, tokens: Tensor) -> Tensor:
        """Read a token of each row, int64 [rows]. Returns the next one's logits, float32 [rows, vocabulary]."""
        positions = self._present.sum(-1, keepdim=True)
        self._present = pad(self._present, (0, 1), value=True)
        output = self._model(
            input_ids=tokens[:, None],
            # without padding none is needed, and attention is faster
            attention_mask=None if bool(self._present.all()) else self._present.long(),
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
            **({"position_ids": positions} if self._takes_positions else {}),
            **{CACHE: self._cache},
        )
        return output.logits[:, -1].float()

    def keep(self, rows: Sequence[int]) -> None:
        """Let go of all other rows, and of columns that are padding in what is left."""
        if not rows:
            self._cache, self._present = None, self._present[:0, :0]
        elif len(rows) < len(self):
            index = torch.tensor(rows, device=self._present.device)
            present = self._present[index]
            first = int(present.any(0).int().argmax())
            for layer in self._cache.layers:
                if layer.is_initialized:
                    layer.keys = layer.keys[index, :, first:]
                    layer.values = layer.values[index, :, first:]
            self._present = present[:, first:]


def keeps_only_keys(config) -> bool:
    """Whether all layers are attention, whose cache can be kept whole: then a window is but a mask."""
    layers = DynamicCache(config=config).layers
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def stretches_by_longest(model: PreTrainedModel) -> bool:
    """Whether rotary embeddings of a row change with the others': Phi-3's longrope follows the longest."""
    return any(getattr(module, "rope_type", None) == "longrope" for module in model.modules())


def _stacked(old: Tensor, new: Tensor, width: int, axis: int) -> Tensor:
    """Rows of both, each with zeros in front up to `width` along that axis."""
    after = (0, 0) * (-axis - 1)
    return torch.cat([pad(rows, (*after, width - rows.shape[axis], 0)) for rows in (old, new)])
