"""QLoRA of Baichuan-13B-Chat on Alpaca; 9 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.qlora import *
    from .._base_.models.baichuan_13b_chat import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
