"""Any other checkpoint in Transformers' own layout, with the chat template it brings along."""

from __future__ import annotations

from xtune.families.family import Family

FAMILY = Family(
    name="native",
    title="any model in transformers' own layout",
    recognises=lambda config: "auto_map" not in config,
    template=lambda config, directory: None,
)
