"""InternLM3 (Shanghai AI Laboratory), native in transformers under its own name."""

from __future__ import annotations

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.tokenizers_original import internlm2_tokenizer


def _layout(config: Config, options: Options) -> Layout:
    from transformers import InternLM3Config, LlamaForCausalLM  # what transformers builds of that config

    native = {key: value for key, value in config.items() if key not in ("auto_map", "attn_implementation")}
    return Layout("internlm3", InternLM3Config(**native), LlamaForCausalLM)


FAMILY = Family(
    name="internlm3",
    title="InternLM3 8B",
    recognises=lambda config: config.get("model_type") == "internlm3",
    template=lambda config, directory: "internlm3",
    layout=_layout,
    load_tokenizer=internlm2_tokenizer,
)
