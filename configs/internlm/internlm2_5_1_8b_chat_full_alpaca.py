"""Full training of internlm2_5-1_8b-chat on Alpaca; 31 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.full import *
    from .._base_.models.internlm2_5_1_8b_chat import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
