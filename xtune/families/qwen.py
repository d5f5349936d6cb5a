"""Qwen of 2023, with its own modeling code: Qwen2's layers, and two things done past the trained length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.layout import Fused, Rename
from xtune.families.tokenizers_original import qwen_tokenizer

if TYPE_CHECKING:
    from transformers import Qwen2Config

WEIGHTS = (
    Rename("^transformer.wte.", "^model.embed_tokens."),
    Rename("^transformer.ln_f.", "^model.norm."),
    Rename("^transformer.h.", "^model.layers."),
    Rename(".ln_1.", ".input_layernorm."),
    Rename(".ln_2.", ".post_attention_layernorm."),
    Rename(".attn.c_proj.", ".self_attn.o_proj."),
    Rename(".mlp.w2.", ".mlp.gate_proj."),  # the one that goes through SiLU
    Rename(".mlp.w1.", ".mlp.up_proj."),
    Rename(".mlp.c_proj.", ".mlp.down_proj."),
    Fused(".attn.c_attn.", "blocks"),
)


def _native_config(config: Config) -> Qwen2Config:
    from transformers import Qwen2Config

    def first(*names: str, default=None):
        return next((config[name] for name in names if config.get(name) is not None), default)

    query = first("num_attention_heads", "n_head")
    length = first("max_position_embeddings", "n_positions", default=8192)
    return Qwen2Config(
        vocab_size=first("vocab_size", "padded_vocab_size"),
        hidden_size=first("hidden_size", "n_embd"),
        intermediate_size=first("intermediate_size", "ffn_hidden_size")
        // 2,  # both halves of the gated layer
        num_hidden_layers=first("num_hidden_layers", "n_layer"),
        num_attention_heads=query,
        num_key_value_heads=query,
        head_dim=config.get("kv_channels", first("hidden_size", "n_embd") // query),
        hidden_act="silu",
        max_position_embeddings=length,
        rms_norm_eps=config.get("layer_norm_epsilon", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        use_sliding_window=False,
        bos_token_id=config.get("bos_token_id", 151643),
        eos_token_id=config.get("eos_token_id", 151643),
        dtype=config.get("torch_dtype"),
        # Qwen's own, read by qwen_model
        trained_length=config.get("seq_length", length),
        dynamic_ntk=config.get("use_dynamic_ntk", True),
        log_n_attention=config.get("use_logn_attn", True),
    )


def _layout(config: Config, options: Options) -> Layout:
    from xtune.families.qwen_model import QwenForCausalLM

    native = _native_config(config)
    stock = (
        f"past {native.trained_length} tokens it stretches rotary embeddings and sharpens attention, "
        "which Qwen2 does not"
    )
    stretches = native.dynamic_ntk or native.log_n_attention
    return Layout(
        "qwen",
        native,
        QwenForCausalLM,
        WEIGHTS,
        stock=stock if stretches else True,
        own_rope=stock if stretches else None,
    )


def _refuses(config: Config) -> str | None:
    for part in ("visual", "audio"):
        if part in config:
            return f"it is a {part} model (Qwen-{'VL' if part == 'visual' else 'Audio'})"
    return None


FAMILY = Family(
    name="qwen",
    title="Qwen 1.8B, 7B, 14B, 72B (2023)",
    recognises=lambda config: config.get("model_type") == "qwen",
    template=lambda config, directory: "qwen",
    layout=_layout,
    load_tokenizer=qwen_tokenizer,
    refuses=_refuses,
    spare_tokens="<|extra_0|> to <|extra_204|>",
)
