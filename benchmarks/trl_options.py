"""What TRL's trainers have to be told to train as xtune does by default."""

SAME_AS_XTUNE = {
    "train_sampling_strategy": "sequential",
    "warmup_steps": 0,
    "optim": "adamw_torch_fused",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
}
