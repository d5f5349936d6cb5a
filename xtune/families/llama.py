"""LLaMA 2, 3, 3.1 and 3.2 (Meta), native in transformers; the chat format follows from the generation."""

from __future__ import annotations

from pathlib import Path

from xtune.families.family import Config, Family
from xtune.families.tokenizers_original import internlm2_tokenizer, internlm_tokenizer

# InternLM models that somebody wrote out as LLaMA: LLaMA's tokenizer class reads their file wrongly.
_INTERNLM_VOCABULARIES = {103168: ("internlm", internlm_tokenizer), 92544: ("internlm2", internlm2_tokenizer)}


def _template(config: Config, directory: Path) -> str | None:
    vocabulary = config.get("vocab_size")
    if vocabulary in _INTERNLM_VOCABULARIES:
        return _INTERNLM_VOCABULARIES[vocabulary][0]
    if vocabulary == 32000:
        return "llama2"
    if vocabulary not in (128256, 128264):
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") != "llama3":
        return "llama3"
    # 3.2's small models share input and output embeddings, 3.1's do not
    return "llama3_2" if config.get("tie_word_embeddings") else "llama3_1"


def _load_tokenizer(directory: Path):
    from xtune.families import read_config

    vocabulary = read_config(directory).get("vocab_size")
    if vocabulary in _INTERNLM_VOCABULARIES and not (directory / "tokenizer.json").is_file():
        return _INTERNLM_VOCABULARIES[vocabulary][1](directory)
    return None


FAMILY = Family(
    name="llama",
    title="LLaMA 2, 3, 3.1, 3.2",
    recognises=lambda config: config.get("model_type") == "llama" and "auto_map" not in config,
    template=_template,
    load_tokenizer=_load_tokenizer,
)
