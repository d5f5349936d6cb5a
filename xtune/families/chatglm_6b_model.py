"""ChatGLM-6B (2023), which transformers has no class for: a prefix language model with two positions a token.

    prompt   w w w [gMASK] <sop> a a a      everything before <sop> sees each other; <sop> and the answer
    position 0 1 2   3       3   3 3 3      see the prompt and what came before them
    block    0 0 0   0       1   2 3 4

[MASK] may stand in the place of [gMASK], anywhere in the prompt. Each head turns the first half of its
channels by the position and the second half by the block (GLM, arXiv:2103.10360; rotation arXiv:2104.09864).
A block adds its output to alpha times the *normalised* input, as GLM-130B's DeepNorm does (arXiv:2210.02414).

Positions and masks follow from the token ids, so the model is trained, packed and asked like any other. This is
the publisher's final code; that of early 2023 gave <sop> the position after [gMASK]'s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from xtune.families.family import no_stock_class

# Its publisher's code takes the depth from a default: a model of another depth was scaled as this one.
ALPHA = math.sqrt(2 * 28)
# transformers 5.24 renamed the field.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class ChatGlm6BConfig(PreTrainedConfig):
    """The sizes and control tokens of a ChatGLM-6B; the defaults are those of the published model."""

    model_type = "xtune_chatglm_6b"

    vocab_size: int = 130528
    hidden_size: int = 4096
    intermediate_size: int = 16384
    num_hidden_layers: int = 28
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = 130004  # <sop>, where the answer begins
    eos_token_id: int | list[int] | None = 130005  # <eop>
    pad_token_id: int | None = 3
    mask_token_id: int = 130000
    gmask_token_id: int = 130001
    tie_word_embeddings: bool = False


class Prefix(NamedTuple):
    """Where the prompt of each row lies. Kept on the cache, since the tokens that follow do not show it.

    Beams of one prompt share it, so reordering a cache leaves it true.

    padding        int64 [batch, 1]: how many columns of padding come first
    sop            int64 [batch, 1]: the column of <sop>
    mask_position  int64 [batch, 1]: where [gMASK] is, else [MASK]: its column less the padding
    """

    padding: Tensor
    sop: Tensor
    mask_position: Tensor


def find_prefix(input_ids: Tensor, attention_mask: Tensor | None, config: ChatGlm6BConfig) -> Prefix:
    """The prefix of each row; input_ids and attention_mask [batch, tokens]. ValueError where a row has none."""
    sop = input_ids == config.bos_token_id
    gmask = input_ids == config.gmask_token_id
    mask = torch.where(gmask.any(-1, keepdim=True), gmask, input_ids == config.mask_token_id)
    if not bool((sop.any(-1) & mask.any(-1)).all()):
        raise ValueError("Each sample for ChatGLM-6B needs [gMASK] or [MASK], and <sop>, before its answer.")
    present = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    padding, sop, mask = (flags.int().argmax(-1, keepdim=True) for flags in (present, sop, mask))
    return Prefix(padding, sop, mask - padding)


def positions(prefix: Prefix, columns: range) -> Tensor:
    """Position and block of the tokens in these columns: int64 [batch, 2, tokens]."""
    column = torch.arange(columns.start, columns.stop, device=prefix.sop.device)
    position = torch.where(column < prefix.sop, column - prefix.padding, prefix.mask_position)
    return torch.stack([position, column - prefix.sop + 1], dim=1).clamp(min=0)


def visible(prefix: Prefix, columns: range, attention_mask: Tensor | None) -> Tensor:
    """Whether the tokens in these columns see each column from 0 on: bool [batch, 1, tokens, columns.stop]."""
    keys = torch.arange(columns.stop, device=prefix.sop.device)
    queries = keys[columns.start :, None]
    seen = (keys <= queries) | (keys < prefix.sop[:, :, None])
    if attention_mask is not None:  # padding sees itself: a softmax over nothing is NaN
        seen = (seen & attention_mask.bool()[:, None]) | (keys == queries)
    return seen[:, None]


def rotation(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines for positions [batch, 2, tokens]: [batch, 1, tokens, 2, head_dim / 2] of that dtype.

    As in the publisher's code, frequencies are rounded to float16, and the angles too in a float16 model.
    """
    half = head_dim // 2
    frequencies = [10000 ** (-channel / half) for channel in range(0, half, 2)]
    rounded = torch.tensor(frequencies, dtype=torch.float16, device=positions.device)
    precision = torch.float16 if dtype == torch.float16 else torch.float32
    angles = positions[..., None].to(precision) * rounded.to(precision)
    angles = torch.cat([angles, angles], dim=-1).transpose(1, 2)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [batch, heads, tokens, head_dim]: each half of the channels by its own angles."""
    halves = states.unflatten(-1, (2, -1))
    one, other = halves.chunk(2, dim=-1)
    return (halves * cos + torch.cat([-other, one], dim=-1) * sin).flatten(-2)


class SelfAttention(nn.Module):
    """Multi-head attention under a mask; sample by sample where several are packed into the row."""

    def __init__(self, config: ChatGlm6BConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states, cos, sin, masks: Sequence[Tensor], cache=None):
        """hidden_states [batch, tokens, hidden]; masks: one of the whole, or those of the packed samples."""
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        parts = (
            tensor.split([mask.shape[axis] for mask in masks], dim=2)
            for tensor, axis in ((query, 2), (key, 3), (value, 3))
        )
        outputs = [
            scaled_dot_product_attention(q, k, v, attn_mask=mask)
            for q, k, v, mask in zip(*parts, masks, strict=True)
        ]
        return self.o_proj(torch.cat(outputs, dim=2).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers, with the tanh form of GELU between; no gate."""

    def __init__(self, config: ChatGlm6BConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states):
        return self.down_proj(gelu(self.up_proj(hidden_states), approximate="tanh"))


class ChatGlm6BLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each added to alpha times its own normalised input."""

    def __init__(self, config: ChatGlm6BConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, hidden_states, cos, sin, masks, cache=None):
        normed = self.input_layernorm(hidden_states)
        hidden_states = ALPHA * normed + self.self_attn(normed, cos, sin, masks, cache)
        normed = self.post_attention_layernorm(hidden_states)
        return ALPHA * normed + self.mlp(normed)


class ChatGlm6BPreTrainedModel(PreTrainedModel):
    """What transformers wants to know of both classes below."""

    config_class = ChatGlm6BConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("ChatGlm6BLayer",)
    _supports_sdpa = True

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # and none changes anything, for the masks are our own; flash attention is refused


class ChatGlm6BModel(ChatGlm6BPreTrainedModel):
    """From token ids to the last hidden states."""

    def __init__(self, config: ChatGlm6BConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ChatGlm6BLayer(config, n) for n in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self, input_ids, attention_mask=None, inputs_embeds=None, sample_lengths=None, cache=None
    ) -> BaseModelOutputWithPast:
        """As ChatGlm6BForCausalLM.forward; last_hidden_state [batch, tokens, hidden]."""
        if sample_lengths is None:
            past = 0 if cache is None else cache.get_seq_length()
            prefix = cache.prefix if past else find_prefix(input_ids, attention_mask, self.config)
            if cache is not None:
                cache.prefix = prefix
            samples = [(prefix, range(past, past + input_ids.shape[1]))]
        else:
            parts = input_ids.split(list(sample_lengths), dim=1)
            samples = [(find_prefix(part, None, self.config), range(part.shape[1])) for part in parts]
        masks = [visible(prefix, columns, attention_mask) for prefix, columns in samples]
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cos, sin = rotation(
            torch.cat([positions(prefix, columns) for prefix, columns in samples], dim=-1),
            self.config.hidden_size // self.config.num_attention_heads,
            hidden_states.dtype,
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, cos, sin, masks, cache=cache)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states))


class ChatGlm6BForCausalLM(ChatGlm6BPreTrainedModel, GenerationMixin):
    """ChatGLM-6B with its output layer."""

    def __init__(self, config: ChatGlm6BConfig):
        super().__init__(config)
        self.model = ChatGlm6BModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        sample_lengths: Sequence[int] | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """
        input_ids        int64 [batch, tokens], each row or packed sample with [gMASK] or [MASK] and <sop>
        attention_mask   [batch, tokens], with those in the cache: 0 is padding, on either side; None: no padding
        position_ids     what generate and our collate count out; unused, as input_ids decide
        past_key_values  transformers' Cache, filled by this model; `cache` is its newer name
        inputs_embeds    [batch, tokens, hidden], instead of the embeddings of input_ids
        labels           int64 [batch, tokens], shifted here; -100: no loss
        logits_to_keep   the last so many tokens (0: all), or int64 [columns]
        sample_lengths   input_ids is one row of samples, this long each, none of which sees another
        logits           [batch, tokens kept, vocabulary]
        """
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if not use_cache or (self.training and torch.is_grad_enabled()):
            cache = None
        elif cache is None and sample_lengths is None:
            cache = DynamicCache(config=self.config)
        hidden_states = self.model(input_ids, attention_mask, inputs_embeds, sample_lengths, cache)[0]
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

    def to_stock(self) -> NoReturn:
        """Raises UsageError: transformers has no such model."""
        raise no_stock_class("it reads its prompt from both sides, at positions in two dimensions")


RENAMED = {
    "num_layers": "num_hidden_layers",
    "inner_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "layernorm_epsilon": "layer_norm_eps",
}
SAME = ("vocab_size", "hidden_size", "num_attention_heads", "bos_token_id", "eos_token_id")


def native_config(config: dict[str, Any]) -> ChatGlm6BConfig:
    """The configuration of a published config.json, of either generation of the vocabulary.

    Older files leave out [MASK] and [gMASK], which come four and three ids before <sop> in both, and <pad>.
    """
    sop = config["bos_token_id"]
    implied = {"mask_token_id": sop - 4, "gmask_token_id": sop - 3, "pad_token_id": None}
    values = {name: config[key] for key, name in RENAMED.items()} | {name: config[name] for name in SAME}
    return ChatGlm6BConfig(**values, **{name: config.get(name, default) for name, default in implied.items()})
