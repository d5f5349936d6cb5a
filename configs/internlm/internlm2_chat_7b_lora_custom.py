"""LoRA of internlm2-chat-7b on your data; 17 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.custom import *
    from .._base_.methods.lora import *
    from .._base_.models.internlm2_chat_7b import *

train = dict(epochs=3, batch_size=16, micro_batch_size=1, gradient_checkpointing=True)
