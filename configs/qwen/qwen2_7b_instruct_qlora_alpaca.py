"""QLoRA of Qwen2-7B-Instruct on Alpaca; 7 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.qlora import *
    from .._base_.models.qwen2_7b_instruct import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
