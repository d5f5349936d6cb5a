"""Which checkpoints are reward models: causal language models with a single output, the score of the text so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "score"
"""Name of the layer in the place of the output layer: that of transformers' classes for sequence classification, so
that weights, checkpoints and adapters have the same names in both."""


def is_reward_config(config: dict[str, Any]) -> bool:
    """Whether a config.json is that of a reward model: of a classifier, or InternLM2's."""
    names = config.get("architectures") or []
    return any(name.endswith(("ForSequenceClassification", "ForRewardModel")) for name in names)


def refusal(config: dict[str, Any]) -> str | None:
    """Why a config.json of a classifier is none of a reward model; None: it is one, or of no classifier."""
    names, classes = config.get("architectures") or [], len(config.get("id2label") or "01")
    if classes > 1 and any(name.endswith("ForSequenceClassification") for name in names):
        return f"it is a classifier of {classes} classes, and a reward model has one output"
    return None


def is_reward_model(model: PreTrainedModel) -> bool:
    """Whether a loaded model is a reward model."""
    return hasattr(model, HEAD)
