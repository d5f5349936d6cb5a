"""Baichuan and Baichuan2: LLaMA with a fused query-key-value layer. The 13B models have ALiBi in place of
rotary embeddings, the second generation normalises the rows of its output layer."""

from __future__ import annotations

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.layout import Fused
from xtune.families.llama_config import llama_config
from xtune.families.tokenizers_original import baichuan_tokenizer

WEIGHTS = (Fused(".self_attn.W_pack.", "blocks"),)

SECOND_GENERATION = 125696  # its vocabulary, without added tokens


def _layout(config: Config, options: Options) -> Layout:
    from transformers import LlamaForCausalLM

    from xtune.families.baichuan_model import BaichuanForCausalLM

    norm_head = options.norm_head
    if norm_head is None:
        norm_head = config["vocab_size"] >= SECOND_GENERATION
    # Only the 7B models' code has max_position_embeddings.
    position = options.position or ("rope" if "max_position_embeddings" in config else "alibi")
    native = llama_config(
        config,
        max_position_embeddings=config.get("max_position_embeddings", config.get("model_max_length", 4096)),
        norm_head=norm_head,
        position=position,
    )
    different = [
        *(["ALiBi in place of rotary embeddings"] if position == "alibi" else []),
        *(["the rows of its output layer are normalised"] if norm_head else []),
    ]
    return Layout(
        "baichuan",
        native,
        BaichuanForCausalLM if different else LlamaForCausalLM,
        WEIGHTS,
        stock=" and ".join(different) or True,
        own_rope="it has ALiBi in place of rotary embeddings" if position == "alibi" else None,
    )


FAMILY = Family(
    name="baichuan",
    title="Baichuan 7B, 13B, Baichuan2 7B, 13B",
    recognises=lambda config: config.get("model_type") == "baichuan",
    template=lambda config, directory: (
        "baichuan2" if config["vocab_size"] >= SECOND_GENERATION else "baichuan"
    ),
    layout=_layout,
    load_tokenizer=baichuan_tokenizer,
    options=("norm_head", "position"),
)
