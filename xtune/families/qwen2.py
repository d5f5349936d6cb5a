"""Qwen 1.5, 2, 2.5 and 3 (Alibaba Cloud), native in transformers; the generation shows in the tokenizer."""

from __future__ import annotations

from pathlib import Path

from xtune.families.family import Config, Family


def _template(config: Config, directory: Path) -> str:
    if config["model_type"].startswith("qwen3"):
        return "qwen3"
    for name in ("tokenizer_config.json", "tokenizer.json"):
        file = directory / name
        if file.is_file() and "<tool_call>" in file.read_text(encoding="utf-8", errors="replace"):
            return "qwen2_5"
    return "qwen2"


FAMILY = Family(
    name="qwen2",
    title="Qwen1.5, Qwen2, Qwen2.5, Qwen3",
    recognises=lambda config: config.get("model_type") in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    template=_template,
)
