"""LoRA of internlm3-8b-instruct on Alpaca; 19 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.lora import *
    from .._base_.models.internlm3_8b_instruct import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
