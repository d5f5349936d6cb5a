"""Train glm-4-9b-chat with 4-bit QLoRA on your own data; takes 8 GB of GPU memory plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.custom import *
    from .._base_.methods.qlora import *
    from .._base_.models.glm4_9b_chat import *

train.update(epochs=3, batch_size=16, micro_batch_size=1, gradient_checkpointing=True)
