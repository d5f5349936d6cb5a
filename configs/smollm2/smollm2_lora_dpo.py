"""Teach SmolLM2-135M to be brief with LoRA and DPO; runs on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.brief import *
    from .._base_.methods.lora import *
    from .._base_.models.smollm2 import *

train = dict(objective=dict(kind="dpo", sft_weight=1.0), lr=2e-4, epochs=3)
