"""InternLM (Shanghai AI Laboratory, 2023): LLaMA under its own name, at 7B with biases in attention."""

from __future__ import annotations

from pathlib import Path

from xtune.families.family import Config, Family, Layout, Options
from xtune.families.llama_config import llama_config
from xtune.families.tokenizers_original import internlm_tokenizer


def _layout(config: Config, options: Options) -> Layout:
    from transformers import LlamaForCausalLM

    from xtune.families.internlm_model import InternLMForCausalLM

    rotary = config.get("rotary") or {}
    # The publisher's last code stretches rotary embeddings where the config has no `rotary`, all before do not.
    kind = options.rope or ("dynamic" if rotary.get("type") == "dynamic" else "plain")
    rope = {"rope_type": "default", "rope_theta": float(rotary.get("base", 10000))}
    if kind == "plain":
        return Layout("internlm", llama_config(config, rope_parameters=rope), LlamaForCausalLM)
    rope |= {"rope_type": "dynamic", "factor": float(rotary.get("scaling_factor", 1.0))}
    native = llama_config(config, rope_parameters=rope)
    stock = (
        f"in writing past {native.max_position_embeddings} tokens it turns keys again that LLaMA leaves "
        "as they were"
    )
    own = 'it stretches its rotary embeddings itself, as model.rope = "plain" would switch off'
    return Layout("internlm", native, InternLMForCausalLM, stock=stock, own_rope=own)


def _template(config: Config, directory: Path) -> str:
    """v1.0 models end the user's turn with <eoh>, as only the code beside them tells."""
    code = directory / "modeling_internlm.py"
    first = code.is_file() and "<eoh>" in code.read_text(encoding="utf-8", errors="replace")
    return "internlm_v1_0" if first else "internlm"


FAMILY = Family(
    name="internlm",
    title="InternLM 7B, 20B",
    recognises=lambda config: config.get("model_type") == "internlm",
    template=_template,
    layout=_layout,
    load_tokenizer=internlm_tokenizer,
    options=("rope",),
)
