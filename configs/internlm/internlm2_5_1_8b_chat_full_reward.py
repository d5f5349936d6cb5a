"""Reward model (full training) of internlm2_5-1_8b-chat on UltraFeedback; 28 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.ultrafeedback import *
    from .._base_.methods.full import *
    from .._base_.models.internlm2_5_1_8b_chat import *

train = dict(
    objective=dict(kind="reward", loss="focal", read_at="[UNUSED_TOKEN_130]"),
    epochs=1, batch_size=64, micro_batch_size=1, gradient_checkpointing=True,
)
