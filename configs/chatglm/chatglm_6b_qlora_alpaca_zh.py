"""QLoRA of chatglm-6b on Chinese Alpaca; 6 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca_zh import *
    from .._base_.methods.qlora import *
    from .._base_.models.chatglm_6b import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
