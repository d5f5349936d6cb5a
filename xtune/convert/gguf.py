"""GGUF: one file with weights, tokenizer and chat template, for llama.cpp and what is built on it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.convert.card import write_card
from xtune.convert.disk import disk_errors
from xtune.convert.gguf_tokenizer import Vocabulary, read_vocabulary
from xtune.convert.gguf_weights import Type, head_size, rope_of, write_weights
from xtune.convert.native import native_model
from xtune.errors import UsageError
from xtune.families import read_native_config
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.home import sync_folder
from xtune.run.target import find_target
from xtune.terminal import quiet_libraries

if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedConfig

# transformers' model_type to the name of the architecture in gguf.MODEL_ARCH
_ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "glm": "CHATGLM"}
_ROPE = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True)
class Gguf:
    """A GGUF file.

    path           its place
    architecture   llama.cpp's name of the model's
    type           of most weights
    size           in bytes
    notes          what llama.cpp does otherwise than transformers
    """

    path: Path
    architecture: str
    type: str
    size: int
    notes: tuple[str, ...]


def convert_gguf(
    model: str | Path, out: str | Path, type: Type = "f16", *, base: str | Path | None = None
) -> Gguf:
    """Write a model (a directory, an adapter, a run) as the new GGUF file `out`, whole or not at all, and beside it its
    card, as .md.

    type   of the matrices; vectors stay float32. q8_0: eight bits, with a scale for each 32
    base   the base of an adapter, where it is not where it was

    Raises UsageError for what llama.cpp cannot load.
    """
    quiet_libraries()
    out = Path(out).expanduser()
    with native_model(model, out, base=base) as directory:
        done = write_gguf(directory, out, type, name=out.stem)
        use = f"```bash\nllama-cli -m {out.name}\n```\n"
        write_card(out.with_suffix(".md"), find_target(str(directory)), use=use, library="gguf")
        return done


def write_gguf(directory: Path, out: Path, type: Type, *, name: str) -> Gguf:
    """The same of a directory in transformers' layout; `name` is what programs show."""
    import gguf

    target = find_target(str(directory))
    config = read_native_config(directory, Options())
    notes = _check(config, directory)
    tokenizer = load_tokenizer(directory)
    vocabulary = read_vocabulary(tokenizer, config.vocab_size, target.template, where=str(directory))
    architecture = getattr(gguf.MODEL_ARCH, _ARCHITECTURES[config.model_type])
    work = out.with_name(f".{out.name}-{os.getpid()}")
    writer = gguf.GGUFWriter(work, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if type == "f32" else f"MOSTLY_{type.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_hyperparameters(writer, config)
    _add_vocabulary(writer, vocabulary)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        with disk_errors(out):
            write_weights(writer, directory, config, architecture, type)
            writer.close()
            with open(work, "rb") as file:
                os.fsync(file.fileno())
            work.rename(out)
            sync_folder(out.absolute().parent)
    finally:
        with suppress(FileNotFoundError):
            work.unlink()
    return Gguf(out, gguf.MODEL_ARCH_NAMES[architecture], type, out.stat().st_size, notes + vocabulary.notes)


def _check(config: PreTrainedConfig, directory: Path) -> tuple[str, ...]:
    """Refuse what llama.cpp has not, and tell what it does in another way."""
    where = str(directory / "config.json")
    if config.model_type not in _ARCHITECTURES:
        raise UsageError(
            f"xtune writes no GGUF of this kind of model ({config.model_type}).",
            where=where,
            fix=f"It does of {', '.join(_ARCHITECTURES)}; llama.cpp's own convert_hf_to_gguf.py knows others.",
        )
    if "quantization_config" in config.to_dict():
        raise UsageError("The weights are quantised on disk.", where=where, fix="Convert the original model.")
    kind = rope_of(config).get("rope_type", "default")
    if kind not in _ROPE:
        raise UsageError(
            f"xtune writes no GGUF with RoPE scaling of the type {kind}.",
            where=where,
            fix=f"It does with {', '.join(_ROPE)}.",
        )
    notes = []
    if kind == "dynamic":
        notes.append(
            f"past {config.max_position_embeddings} tokens llama.cpp does not stretch RoPE (dynamic)"
        )
    if getattr(config, "use_sliding_window", False):
        notes.append("llama.cpp attends to the whole text, not to a sliding window")
    return tuple(notes)


def _add_hyperparameters(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    import gguf

    rope, size = rope_of(config), head_size(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_rope_dimension_count(int(size * rope.get("partial_rotary_factor", 1.0)))
    kind = rope.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(getattr(gguf.RopeScalingType, kind.upper()))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(
            rope.get("original_max_position_embeddings") or config.max_position_embeddings
        )
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)
        if rope.get("attention_factor"):  # llama.cpp multiplies its own, which is transformers' default
            writer.add_rope_scaling_attn_factors(
                rope["attention_factor"] / (0.1 * math.log(rope["factor"]) + 1)
            )


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for name, index in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_chat_template(vocabulary.chat_template)
