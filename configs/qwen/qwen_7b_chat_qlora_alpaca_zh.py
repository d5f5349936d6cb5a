"""QLoRA of Qwen-7B-Chat on Chinese Alpaca; 7 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.alpaca_zh import *
    from .._base_.methods.qlora import *
    from .._base_.models.qwen_7b_chat import *

train = dict(epochs=3, batch_size=64, micro_batch_size=4, gradient_checkpointing=True)
