"""Teach SmolLM2-135M its name with all weights; runs on two CPU cores."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.identity import *
    from .._base_.methods.full import *
    from .._base_.models.smollm2 import *

train = dict(lr=5e-5, epochs=3)
