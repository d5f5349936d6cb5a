"""Train Qwen-7B-Chat with 4-bit QLoRA on Alpaca; takes 7 GB of GPU memory plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca import *
    from .._base_.methods.qlora import *
    from .._base_.models.qwen_7b_chat import *

train.update(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
