"""Configs for Hugging Face's Trainer (framework = "huggingface"), said as those for mmengine's runner."""

from __future__ import annotations

from typing import Any

_NAMES = {
    "learning_rate": ("optim_wrapper", "optimizer", "lr"),
    "weight_decay": ("optim_wrapper", "optimizer", "weight_decay"),
    "optim": ("optim_wrapper", "optimizer", "type"),
    "adam_epsilon": ("optim_wrapper", "optimizer", "eps"),
    "max_grad_norm": ("optim_wrapper", "clip_grad", "max_norm"),
    "gradient_accumulation_steps": ("optim_wrapper", "accumulative_counts"),
    "per_device_train_batch_size": ("train_dataloader", "batch_size"),
    "num_train_epochs": ("train_cfg", "max_epochs"),
    "save_total_limit": ("default_hooks", "checkpoint", "max_keep_ckpts"),
    "seed": ("randomness", "seed"),
}
_WITHOUT_MEANING = (
    *("type", "do_train", "fp16", "bf16", "tf32", "logging_steps", "save_strategy", "lr_scheduler_type"),
    *(
        "ddp_find_unused_parameters",
        "output_dir",
        "report_to",
        "dataloader_num_workers",
        "remove_unused_columns",
    ),
)


def without_trainer(values: dict[str, Any]) -> dict[str, Any]:
    """The config with its training_args under the names that mmengine's runner has for them."""
    args = dict(values["training_args"])
    result: dict[str, Any] = {
        "model": {"type": "SupervisedFinetune", "llm": values["model"], "lora": values.get("lora")},
        "train_dataloader": {"dataset": values.get("train_dataset")},
        "optim_wrapper": {
            "optimizer": {"type": "AdamW", "weight_decay": 0.0},
            "clip_grad": {"max_norm": 1.0},
        },
        "default_hooks": {"checkpoint": {"by_epoch": False}},
        "param_scheduler": _schedulers(args),
    }
    accumulate = args.get("gradient_accumulation_steps", 1)
    for option, key in _NAMES.items():
        if option in args:
            _put(result, key, args.pop(option))
    # In steps of the optimizer here, in iterations there.
    for option, key in (
        ("save_steps", ("default_hooks", "checkpoint", "interval")),
        ("max_steps", ("train_cfg", "max_iters")),
    ):
        if (steps := args.pop(option, -1)) > 0:
            _put(result, key, steps * accumulate)
    return {**result, "training_args": {name: args[name] for name in args if name not in _WITHOUT_MEANING}}


def _schedulers(args: dict[str, Any]) -> list[dict[str, Any]]:
    kind = args.get("lr_scheduler_type", "linear")
    epochs, steps, warmup = (
        args.get("num_train_epochs", 3),
        args.get("max_steps", -1),
        args.pop("warmup_ratio", 0),
    )
    accumulate = args.get("gradient_accumulation_steps", 1)
    schedulers = [{"type": {"cosine": "CosineAnnealingLR", "linear": "PolyLR"}.get(kind, kind)}]
    if first := args.pop("warmup_steps", 0):
        schedulers.append({"type": "LinearLR", "by_epoch": False, "end": first * accumulate})
    elif warmup:
        schedulers.append({"type": "LinearLR", "end": warmup * (steps * accumulate if steps > 0 else epochs)})
    return schedulers


def _put(values: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    for part in key[:-1]:
        values = values.setdefault(part, {})
    values[key[-1]] = value
