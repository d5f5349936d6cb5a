"""Reward model (QLoRA) of internlm2_5-7b-chat on UltraFeedback; 6 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.ultrafeedback import *
    from .._base_.methods.qlora import *
    from .._base_.models.internlm2_5_7b_chat import *

train = dict(
    objective=dict(kind="reward", loss="focal", read_at="[UNUSED_TOKEN_130]"),
    epochs=1, batch_size=64, micro_batch_size=1, gradient_checkpointing=True,
)
