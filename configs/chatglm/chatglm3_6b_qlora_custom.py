"""QLoRA of chatglm3-6b on your data; 5 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.custom import *
    from .._base_.methods.qlora import *
    from .._base_.models.chatglm3_6b import *

train = dict(epochs=3, batch_size=16, micro_batch_size=1, gradient_checkpointing=True)
