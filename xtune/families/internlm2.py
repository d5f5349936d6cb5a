"""InternLM2 and 2.5 (Shanghai AI Laboratory): LLaMA with one grouped query-key-value layer and other names."""

from __future__ import annotations

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.layout import Fused, Rename
from xtune.families.llama_config import llama_config
from xtune.families.tokenizers_original import internlm2_tokenizer

WEIGHTS = (
    Rename("^model.tok_embeddings.", "^model.embed_tokens."),
    Rename("^output.", "^lm_head."),
    Rename("^v_head.", "^score."),  # of its reward models
    Rename(".attention_norm.", ".input_layernorm."),
    Rename(".ffn_norm.", ".post_attention_layernorm."),
    Rename(".attention.wo.", ".self_attn.o_proj."),
    Rename(".feed_forward.w1.", ".mlp.gate_proj."),
    Rename(".feed_forward.w3.", ".mlp.up_proj."),
    Rename(".feed_forward.w2.", ".mlp.down_proj."),
    Fused(".attention.wqkv.", "groups"),
)


def _layout(config: Config, options: Options) -> Layout:
    from transformers import LlamaForCausalLM

    return Layout("internlm2", llama_config(config), LlamaForCausalLM, WEIGHTS)


FAMILY = Family(
    name="internlm2",
    title="InternLM2, InternLM2.5",
    recognises=lambda config: config.get("model_type") == "internlm2",
    template=lambda config, directory: "internlm2",
    layout=_layout,
    load_tokenizer=internlm2_tokenizer,
    rope_scaling=("linear", "dynamic"),
)
