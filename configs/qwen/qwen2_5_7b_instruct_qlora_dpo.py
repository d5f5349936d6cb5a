"""DPO (QLoRA) of Qwen2.5-7B-Instruct on orpo-dpo-mix-40k; 7 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.orpo_dpo_mix import *
    from .._base_.methods.qlora import *
    from .._base_.models.qwen2_5_7b_instruct import *

train = dict(objective="dpo", epochs=1, batch_size=32, micro_batch_size=1, gradient_checkpointing=True)
