"""LlamaConfig from the config.json of a model that is a LLaMA under another name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlamaConfig

_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def llama_config(config: dict[str, Any], **different: Any) -> LlamaConfig:
    """What has the same name is taken over; `different` overrides. Every field that matters is set, since the
    defaults are another model's."""
    from transformers import LlamaConfig

    facts = {name: config[name] for name in _SAME if name in config}
    scaling = dict(config.get("rope_scaling") or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", "default")
    facts["rope_parameters"] = {
        "rope_type": kind,
        "rope_theta": float(config.get("rope_theta", 10000)),
        **scaling,
    }
    facts["num_key_value_heads"] = config.get("num_key_value_heads", config["num_attention_heads"])
    facts["attention_bias"] = config.get("bias", False)
    facts["mlp_bias"] = False
    facts["dtype"] = config.get("torch_dtype")
    return LlamaConfig(**(facts | different))
