"""Optimizers and schedules: what a recipe calls them, as transformers and PEFT take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtune.errors import ResourceError
from xtune.recipe.schema import Train

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.optim import Optimizer
    from transformers import TrainingArguments

OPTIM = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "lion": "lion_32bit",
    "lion_8bit": "lion_8bit",
}
"""transformers' names by those of recipes."""


def check_optimizer(name: str) -> None:
    """Raise ResourceError for an optimizer that this machine cannot run, before a model is loaded."""
    import torch

    if name.startswith("paged") and not torch.cuda.is_available():
        raise ResourceError(
            f"{name} moves its state between GPU and CPU, and there is no GPU.",
            where="train.optimizer",
            fix='Use train.optimizer = "adamw_8bit".',
        )


def schedule(train: Train, steps: int) -> dict[str, Any]:
    """TrainingArguments of the learning rate over this number of steps."""
    warmup = round(train.warmup * steps) if train.warmup < 1 else int(train.warmup)
    if train.schedule != "wsd":
        name = "constant_with_warmup" if train.schedule == "constant" else train.schedule
        return {"lr_scheduler_type": name, "warmup_steps": warmup}
    share = 0.1 if train.decay is None else train.decay
    decay = min(max(1, round(share * steps)), max(0, steps - warmup))
    # Of the ways down, 1 - sqrt ends lowest (Hägele et al. 2024).
    return {
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": warmup,
        "lr_scheduler_kwargs": {"num_decay_steps": decay, "decay_type": "1-sqrt"},
    }


def loraplus_optimizer(model: PeftModel, arguments: TrainingArguments, ratio: float) -> Optimizer:
    """LoRA+: the optimizer of `arguments`, with `ratio` times its learning rate for B."""
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return create_loraplus_optimizer(
        model,
        optimizer,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=arguments.weight_decay,
        loraplus_lr_embedding=arguments.learning_rate,
        **options,
    )
