"""InternLM3 (Shanghai AI Laboratory): LLaMA under its own name, as transformers has it too."""

from __future__ import annotations

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.llama_config import llama_config
from xtune.families.tokenizers_original import internlm2_tokenizer


def _layout(config: Config, options: Options) -> Layout:
    from transformers import LlamaForCausalLM

    native = llama_config(
        config,
        head_dim=config.get("head_dim", config["hidden_size"] // config["num_attention_heads"]),
        attention_bias=config.get("qkv_bias", False),
        mlp_bias=config.get("bias", False),
    )
    return Layout("internlm3", native, LlamaForCausalLM)


FAMILY = Family(
    name="internlm3",
    title="InternLM3 8B",
    recognises=lambda config: config.get("model_type") == "internlm3",
    template=lambda config, directory: "internlm3",
    layout=_layout,
    load_tokenizer=internlm2_tokenizer,
    rope_scaling=("linear", "dynamic", "llama3"),
)
