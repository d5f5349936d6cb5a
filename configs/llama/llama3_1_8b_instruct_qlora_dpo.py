"""DPO (QLoRA) of Llama-3.1-8B-Instruct on orpo-dpo-mix-40k; 7 GB on the GPU plus activations."""

from mmengine.config import read_base

with read_base():
    from .._base_.data.orpo_dpo_mix import *
    from .._base_.methods.qlora import *
    from .._base_.models.llama3_1_8b_instruct import *

train = dict(objective="dpo", epochs=1, batch_size=32, micro_batch_size=1, gradient_checkpointing=True)
