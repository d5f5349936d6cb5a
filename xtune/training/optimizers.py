"""Optimizers and schedules: what a recipe calls them, as transformers and PEFT take them."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from xtune.errors import RecipeError, ResourceError
from xtune.model.devices import has_gpu
from xtune.recipe.schema import Full, Lora, Train

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
    "galore": "galore_adamw",
}
"""transformers' names by those of recipes."""
STATE = {
    "adamw": 8.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "adafactor": 0.0,
    "lion": 4.0,
    "lion_8bit": 1.0,
    "galore": 4.0,
}
"""Bytes of an optimizer's state for each trained weight, about."""


GALORE_LAYERS = r".*(attn|attention|mlp|feed_forward).*"
"""Linear layers whose gradients GaLore projects; the rest is trained with plain AdamW."""


def check_optimizer(name: str, method: Full | Lora) -> None:
    """Raise ResourceError for an optimizer that this machine cannot run, RecipeError for one that does not go with the
    method, before a model is loaded."""
    if name.startswith("paged") and not has_gpu():
        raise ResourceError(
            f"{name} moves its state between GPU and CPU, and there is no GPU.",
            where="train.optimizer",
            fix='Use train.optimizer = "adamw_8bit".',
        )
    if name == "galore" and not isinstance(method, Full):
        raise RecipeError(
            "GaLore projects gradients of whole weights to a low rank, which those of adapters have already.",
            where="train.optimizer",
            fix='Use method.kind = "full", or train.optimizer = "adamw".',
        )
    if name == "galore" and find_spec("galore_torch") is None:
        raise ResourceError(
            "GaLore's package is not installed.", where="train.optimizer", fix="pip install xtune[galore]"
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
    """LoRA+: the optimizer of `arguments`, with `ratio` times its learning rate for B. (PEFT's own function
    raises that of DoRA's lengths too, and not that of an embedding's B.)"""
    from transformers import Trainer

    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    second = {name for name in trained if re.search(r"\.lora_(embedding_)?B\.", name)}
    groups = [
        {
            "params": [weight for name, weight in trained.items() if (name in second) == is_second],
            "lr": arguments.learning_rate * (ratio if is_second else 1),
            "weight_decay": arguments.weight_decay,
        }
        for is_second in (False, True)
    ]
    return optimizer(groups, **options)


def make_galore_resumable(optimizer: Optimizer) -> None:
    """Let GaLore's state be read from a checkpoint: it holds projections as objects of a class of its own, which torch
    neither reads nor moves to the device of the weights by itself."""
    import torch
    from galore_torch.galore_projector import GaLoreProjector

    def to_weights(optimizer: Optimizer) -> None:
        for weight, state in optimizer.state.items():
            if projector := state.get("projector"):
                projector.ortho_matrix = projector.ortho_matrix.to(weight.device)

    torch.serialization.add_safe_globals([GaLoreProjector])
    optimizer.register_load_state_dict_post_hook(to_weights)
