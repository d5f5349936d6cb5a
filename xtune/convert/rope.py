"""RoPE scaling in a publisher's own config.json."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.families import find_family, read_layout
from xtune.families.family import Options
from xtune.families.rope import KEPT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def check_rope(base: Path, options: Options) -> None:
    """Refuse a scaling that could not be written beside a whole model in its base's layout, before any work."""
    if options.rope_scaling and (layout := read_layout(base, options)):
        rope_entries(base, options, layout.native_config)


def rope_entries(base: Path, options: Options, config: PreTrainedConfig) -> dict[str, Any]:
    """What the config.json of `base`, in its publisher's layout, must say otherwise for the scaling that a model has.

    config   of the model, native

    Raises UsageError where the publisher's code has no such scaling.
    """
    plain = read_layout(base, replace(options, rope_scaling=None)).native_config
    wanted = _scaling(config)
    if wanted == _scaling(plain):
        return {}
    kind = wanted.pop("rope_type", "default")
    family = find_family(base, options.family)
    if kind not in family.rope_scaling:
        raise UsageError(
            f"In its publisher's layout this model cannot have RoPE scaling ({kind}): the code of {family.title} does "
            "not read it.",
            where="model.rope_scaling",
            fix="Use xtune convert export with --layout native: of the result, or of the base before full training.",
        )
    return {
        "rope_scaling": {"type": kind, **wanted},
        "max_position_embeddings": config.max_position_embeddings,
    }


def _scaling(config: PreTrainedConfig) -> dict[str, Any]:
    rope = getattr(config, "rope_parameters", None) or {}
    return {name: value for name, value in rope.items() if name not in KEPT}
