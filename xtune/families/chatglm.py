"""ChatGLM2, ChatGLM3 and GLM-4 (Zhipu AI) in the layout of their remote code: transformers' GLM by other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.families.family import Config, Family, Layout, Options
from xtune.families.layout import Fused, Rename
from xtune.families.tokenizers_original import chatglm2_tokenizer, glm4_tokenizer

_NAMES = (
    Rename("^transformer.embedding.word_embeddings.", "^model.embed_tokens."),
    Rename("^transformer.output_layer.", "^lm_head."),
    Rename("^transformer.encoder.final_layernorm.", "^model.norm."),
    Rename("^transformer.encoder.layers.", "^model.layers."),
    Rename(".self_attention.dense.", ".self_attn.o_proj."),
    Rename(".mlp.dense_h_to_4h.", ".mlp.gate_up_proj."),
    Rename(".mlp.dense_4h_to_h.", ".mlp.down_proj."),
)
GLM4_VOCABULARY = 151552
# What the native class takes for granted.
_REQUIRED = {
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
    "add_bias_linear": False,
    "apply_residual_connection_post_layernorm": False,
}


def _layout(config: Config, options: Options) -> Layout:
    from transformers import GlmConfig, GlmForCausalLM

    for name, value in _REQUIRED.items():
        if config.get(name, value) != value:
            raise UsageError(
                f"{name} = {config[name]} is not what any published ChatGLM has.",
                where="config.json",
                fix="Use a model whose config.json is the publisher's.",
            )
    shared = config.get("multi_query_attention", False)
    query = config["num_attention_heads"]
    size = config.get("kv_channels", config["hidden_size"] // query)
    native = GlmConfig(
        vocab_size=config["padded_vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["ffn_hidden_size"],
        num_hidden_layers=config["num_layers"],
        num_attention_heads=query,
        num_key_value_heads=config["multi_query_group_num"] if shared else query,
        head_dim=size,
        hidden_act="silu",
        max_position_embeddings=config["seq_length"],
        rms_norm_eps=config["layernorm_epsilon"],
        attention_bias=bool(config.get("add_qkv_bias") or config.get("add_bias_linear")),
        rope_parameters=_rope(config, options),
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        bos_token_id=None,
        eos_token_id=config.get("eos_token_id", 2),
        pad_token_id=config.get("pad_token_id", 0),
        dtype=config.get("torch_dtype"),
    )
    fused = Fused(".self_attention.query_key_value.", "blocks" if shared else "groups")
    return Layout(
        f"chatglm_{fused.rows}",
        native,
        GlmForCausalLM,
        (*_NAMES, fused),
        ignored=(r"^transformer\.rotary_pos_emb\.inv_freq$",),
    )


def _rope(config: Config, options: Options) -> dict[str, Any]:
    """Half of each head is rotated. The ratio of long-text models raises the base, but in ChatGLM2-32k, the only
    one with a ratio of 16, it divides positions."""
    ratio = config.get("rope_ratio", 1)
    if (options.rope or ("linear" if ratio == 16 else "plain")) == "linear":
        rope = {"rope_type": "linear", "factor": float(ratio), "rope_theta": 10000.0}
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0 * ratio}
    return {**rope, "partial_rotary_factor": 0.5}


def _is_glm4(config: Config, directory: Path) -> bool:
    """By the vocabulary; of shrunken ones, by the tokenizer, which is tiktoken's text instead of a binary file."""
    if config["padded_vocab_size"] in (65024, GLM4_VOCABULARY):
        return config["padded_vocab_size"] == GLM4_VOCABULARY
    file = directory / "tokenizer.model"
    return file.is_file() and b"\x00" not in file.read_bytes()[:4096] and file.read_bytes()[:1] != b"\n"


def _load_tokenizer(directory: Path):
    from xtune.families import read_config

    glm4 = _is_glm4(read_config(directory), directory)
    return (glm4_tokenizer if glm4 else chatglm2_tokenizer)(directory)


def _template(config: Config, directory: Path) -> str:
    """ChatGLM2 and 3 have the same config; what lies beside it names one or the other."""
    if _is_glm4(config, directory):
        return "glm4"
    told = str(config.get("_name_or_path", "")) + directory.name
    for name in ("tokenizer_config.json", "tokenization_chatglm.py"):
        if (directory / name).is_file():
            told += (directory / name).read_text(encoding="utf-8", errors="replace")
    told = told.lower()
    if "chatglm3" in told or "<|observation|>" in told:
        return "chatglm3"
    # the code of ChatGLM3 would have told of itself above
    code = (directory / "tokenization_chatglm.py").is_file()
    return "chatglm2" if "chatglm2" in told or code else "chatglm3"


FAMILY = Family(
    name="chatglm",
    title="ChatGLM2 6B, ChatGLM3 6B, GLM-4 9B",
    recognises=lambda config: config.get("model_type") == "chatglm" and "padded_vocab_size" in config,
    template=_template,
    layout=_layout,
    load_tokenizer=_load_tokenizer,
    options=("rope",),
    refuses=lambda config: "it is a vision model (GLM-4V)" if "vision_config" in config else None,
)
