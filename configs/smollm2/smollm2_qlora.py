"""Teach SmolLM2-135M its name with 4-bit QLoRA; runs on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.identity import *
    from .._base_.methods.qlora import *
    from .._base_.models.smollm2 import *

train = dict(lr=1e-3, epochs=3)
