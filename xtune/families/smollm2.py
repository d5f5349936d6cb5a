"""SmolLM2 (Hugging Face): LLaMA layers, native in transformers; told from a LLaMA by its vocabulary."""

from __future__ import annotations

from xtune.families.family import Family

FAMILY = Family(
    name="smollm2",
    title="SmolLM2 135M, 360M, 1.7B",
    recognises=lambda config: config.get("model_type") == "llama" and config.get("vocab_size") == 49152,
    template=lambda config, directory: "smollm2",
)
