"""RoPE scaling, for longer texts than a model was pretrained on, in a config of transformers'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.recipe.schema import RopeScaling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

KEPT = ("rope_theta", "partial_rotary_factor")
"""What of a config's rope_parameters belongs to no scaling."""
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of every published LLaMA


def scale_rope(config: PreTrainedConfig, scaling: RopeScaling, own: str | None = None) -> None:
    """Set a config's rope_parameters and max_position_embeddings.

    own   why the model's rotary embeddings are not those that transformers scales

    What scaling the config has is replaced: the factor counts from the length of pretraining. Length times factor is
    the new length, but of "dynamic", whose formula takes the old one from there. Raises UsageError for a model that
    cannot be scaled.
    """
    before = getattr(config, "rope_parameters", None)
    if own is None and not before:
        own = "it has no rotary embeddings, or none that transformers scales"
    elif own is None and config.nested_rope_parameter_keys(before):
        own = "its layers have rotary embeddings of several kinds"
    if own:
        raise UsageError(
            f"This model takes no RoPE scaling: {own}.", where="model.rope_scaling", fix="Leave it out."
        )
    original = scaling.original_max_position_embeddings or _original_length(config)
    after: dict[str, Any] = {name: before[name] for name in KEPT if name in before}
    after |= {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type in ("yarn", "llama3"):
        after["original_max_position_embeddings"] = original
    if scaling.type == "llama3":
        after |= _LLAMA3
    longer = max(config.max_position_embeddings, round(original * scaling.factor))
    config.max_position_embeddings = original if scaling.type == "dynamic" else longer
    config.rope_parameters = after


def _original_length(config: PreTrainedConfig) -> int:
    rope = config.rope_parameters
    if rope.get("rope_type") == "linear":  # some publishers give the length before, some that after
        raise UsageError(
            f"The model's RoPE is scaled already (linear, by {rope['factor']:g}), and its config.json does not tell "
            "the length before.",
            where="model.rope_scaling",
            fix="Give original_max_position_embeddings, the length that the model was pretrained with.",
        )
    return rope.get("original_max_position_embeddings") or config.max_position_embeddings
