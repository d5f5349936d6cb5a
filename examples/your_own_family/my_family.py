"""Nuthatch, a family that xtune does not know: LLaMA's layers under other names, with one layer for queries,
keys and values."""

from xtune.families.family import Family, Layout
from xtune.families.layout import Fused, Rename

# Their names in the publisher's files, and in transformers. `^` stands where a name begins.
WEIGHTS = (
    Rename("^trunk.embed.", "^model.embed_tokens."),
    Rename("^trunk.norm.", "^model.norm."),
    Rename("^head.", "^lm_head."),
    Rename("^trunk.blocks.", "^model.layers."),
    Rename(".norm1.", ".input_layernorm."),
    Rename(".norm2.", ".post_attention_layernorm."),
    Rename(".attn.out.", ".self_attn.o_proj."),
    Rename(".ffn.gate.", ".mlp.gate_proj."),
    Rename(".ffn.up.", ".mlp.up_proj."),
    Rename(".ffn.down.", ".mlp.down_proj."),
    Fused(".attn.qkv.", "groups"),  # q0 q1 k0 v0, q2 q3 k1 v1
)


def layout(config, options):
    """What transformers would have been told if the publisher had used its classes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    native = LlamaConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["width"],
        intermediate_size=config["ffn_width"],
        num_hidden_layers=config["blocks"],
        num_attention_heads=config["heads"],
        num_key_value_heads=config["kv_heads"],
        max_position_embeddings=config["context"],
        rms_norm_eps=config["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_base"]},
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return Layout("nuthatch", native, LlamaForCausalLM, WEIGHTS)


FAMILY = Family(
    name="nuthatch",
    title="Nuthatch 3M",
    recognises=lambda config: config.get("model_type") == "nuthatch",
    template=lambda config, directory: "smollm2",
    layout=layout,
    # Its tokenizer.json is one that transformers reads. Where there is none: load_tokenizer=a function of the
    # directory that returns a PreTrainedTokenizerFast.
)
