"""ChatGLM-6B (Zhipu AI, March 2023), which transformers has no class for: the model is our own."""

from __future__ import annotations

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.layout import Fused, Rename
from xtune.families.tokenizers_original import chatglm_6b_tokenizer

WEIGHTS = (
    Rename("^transformer.word_embeddings.", "^model.embed_tokens."),
    Rename("^transformer.final_layernorm.", "^model.norm."),
    Rename("^transformer.layers.", "^model.layers."),
    Rename(".attention.dense.", ".self_attn.o_proj."),
    Rename(".mlp.dense_h_to_4h.", ".mlp.up_proj."),
    Rename(".mlp.dense_4h_to_h.", ".mlp.down_proj."),
    Fused(".attention.query_key_value.", "groups"),
)


def _layout(config: Config, options: Options) -> Layout:
    from xtune.families.chatglm_6b_model import ChatGlm6BForCausalLM, native_config

    return Layout(
        "chatglm_6b",
        native_config(config),
        ChatGlm6BForCausalLM,
        WEIGHTS,
        stock="it reads its prompt from both sides, at positions in two dimensions",
        own_rope="its rotary embeddings are of positions in two dimensions",
    )


def _refuses(config: Config) -> str | None:
    if config.get("quantization_bit"):
        return f"its weights are quantised to {config['quantization_bit']} bits; use the unquantised ones"
    if config.get("pre_seq_len"):
        return "it is one for prefix tuning (pre_seq_len)"
    if not config.get("position_encoding_2d", True):
        return "its positions are not the two-dimensional ones of the published model"
    return None


FAMILY = Family(
    name="chatglm_6b",
    title="ChatGLM 6B",
    recognises=lambda config: config.get("model_type") == "chatglm" and "inner_hidden_size" in config,
    template=lambda config, directory: "chatglm",
    layout=_layout,
    load_tokenizer=chatglm_6b_tokenizer,
    refuses=_refuses,
)
