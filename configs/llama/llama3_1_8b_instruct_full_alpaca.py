"""Full training of Llama-3.1-8B-Instruct on Alpaca; 129 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.full import *
    from .._base_.models.llama3_1_8b_instruct import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
