"""Adapters through PEFT: attaching new ones, loading trained ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import RecipeError, UsageError
from xtune.recipe.schema import Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def attach_adapter(model: PreTrainedModel, method: Lora) -> PeftModel:
    """The model with a new, untrained LoRA adapter; only the adapter is trainable, in float32."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=method.targets,
        bias="none",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
        )
        raise RecipeError(
            f"No layer matches method.targets = {method.targets!r}: {str(error).splitlines()[0]}",
            where="method.targets",
            fix=f'Use "all-linear" or some of: {", ".join(linear)}',
        ) from None


def load_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    """The model with a trained adapter, for inference. Raises UsageError where it does not fit the model."""
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, directory).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise UsageError(
            f"The adapter does not fit this model: {str(error).splitlines()[0]}",
            where=str(directory),
            fix="Load it on the base model it was trained on.",
        ) from None


def _is_linear(module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)
