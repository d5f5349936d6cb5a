"""Checkpoints as XTuner 0.1 left them: mmengine's file, or DeepSpeed's directory, around a model that PEFT adapts."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn

CONFIG = """
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

model = dict(
    type=SupervisedFinetune,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path="{base}"),
    {lora}
)
train_dataloader = dict(
    batch_size=1,
    dataset=dict(
        type=process_hf_dataset,
        dataset_map_fn=alpaca_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.{template}),
    ),
)
"""
LORA = "lora=dict(type=LoraConfig, r=4, lora_alpha=12, lora_dropout=0.1, bias='none', task_type='CAUSAL_LM'),"


def write_config(file: Path, base: Path, *, lora: str = LORA, template: str = "llama2_chat") -> Path:
    file.write_text(CONFIG.format(base=base, lora=lora, template=template), encoding="utf-8")
    return file


class Llm(nn.Module):
    """What XTuner's SupervisedFinetune is to a checkpoint: the language model under the name `llm`, and of a LoRA run
    nothing but the adapter."""

    def __init__(self, llm: nn.Module):
        super().__init__()
        self.llm = llm

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        state = super().state_dict(*args, **kwargs)
        adapter = {
            name: tensor
            for name, tensor in state.items()
            if "lora_" in name or "modules_to_save.default" in name
        }
        return OrderedDict(adapter or state)


def besides(config: Path) -> dict[str, Any]:
    """What mmengine's runner keeps beside the weights, its config and the log's history among it."""
    hub = MessageHub.get_instance(f"old-{config.name}")
    for step in range(3):
        hub.update_scalar("train/loss", np.float64(2.0 - step))
    hub.update_info("iter", 3)
    meta = {"epoch": 0, "iter": 3, "seed": 1, "time": "20240501_000000", "mmengine_version": "0.10.7"}
    meta |= {"cfg": Config.fromfile(config).pretty_text, "experiment_name": "run", "dataset_meta": {}}
    return {
        "meta": meta,
        "message_hub": copy.deepcopy(hub.state_dict()),
        "param_schedulers": [{"last_step": 3}],
    }


def write_pth(file: Path, model: nn.Module, config: Path, **others: torch.Tensor) -> Path:
    """iter_3.pth of a run without DeepSpeed."""
    state = {name: tensor.detach().clone() for name, tensor in Llm(model).state_dict().items()}
    torch.save({**besides(config), "state_dict": OrderedDict(state | others)}, file)
    return file


def adapted(base: Path, *, rank: int = 4, **options: Any) -> nn.Module:
    """The base with a LoRA adapter of random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    options = {"target_modules": ["q_proj", "v_proj", "down_proj"]} | options
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=rank, lora_alpha=12, **options)
    )
    random = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.1, generator=random)
    return model.eval()


def write_zero(folder: Path, stage: int, base: Path, config: Path, lora: bool) -> None:
    """iter_3.pth/ of a run with DeepSpeed, after a step, and the weights that it holds: by each of its processes."""
    import deepspeed.ops
    from transformers import AutoModelForCausalLM

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # which would be compiled
    deepspeed.init_distributed("gloo", verbose=False)
    model = Llm(adapted(base) if lora else AutoModelForCausalLM.from_pretrained(base))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(trained, lr=1e-2),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    ids = torch.arange(5, 25)[None]
    engine.backward(engine.module.llm(input_ids=ids, labels=ids).loss)
    engine.step()
    options = {"exclude_frozen_parameters": True} if lora else {}
    engine.save_checkpoint(
        str(folder), tag="iter_3.pth", client_state=besides(config), save_latest=False, **options
    )
    with deepspeed.zero.GatheredParameters(list(model.parameters()) if stage == 3 else []):
        if torch.distributed.get_rank() == 0:
            with torch.no_grad():
                state = {name: weight.detach().clone() for name, weight in model.llm.named_parameters()}
            torch.save(state, folder / "expected.pt")
    torch.distributed.barrier()


if __name__ == "__main__":
    import sys

    to, zero_stage, base_path, config_path, kind = sys.argv[1:]
    write_zero(Path(to), int(zero_stage), Path(base_path), Path(config_path), kind == "lora")
