"""The turn of torchtune's recipe lora_finetune_single_device, given samples that are encoded already.

It has no SmolLM2, which is a small LLaMA: its builder of LLaMA 3.2 makes one, without the scaling of positions.
Settings: dtype; samples_a_pass; by_length; packing (rows of max_length, as many a step as hold a step's samples, on
average); compile.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from pathlib import Path

from driving import Record, Task, read_rows, read_task, report, tokens_of_steps

HERE = "run_torchtune"
record = Record()


class Tokenizer:
    """All that the recipe asks of one."""

    pad_id = 0


class Logger:
    """Where the recipe tells each step's figures."""

    def log_config(self, config) -> None:
        pass

    def log_dict(self, payload, step: int) -> None:
        record.ends.append(time.time())
        record.losses.append(float(payload["loss"]))

    def close(self) -> None:
        pass


def samples(_tokenizer, packed: bool):
    """The data of the task as torchtune lays it out."""
    task = read_task()
    rows = [{"tokens": row["input_ids"], "labels": row["labels"]} for row in read_rows(task)]
    if not packed:
        return rows
    from torchtune.datasets import PackedDataset

    return PackedDataset(rows, max_seq_len=task.max_length)


def configuration(task: Task, rows_a_pass: int, passes: int, packing: bool) -> dict:
    model = json.loads(Path(task.model, "config.json").read_text())
    files = [path.name for path in Path(task.model).glob("*.safetensors")]
    return {
        "output_dir": task.work,
        "model": {
            "_component_": "torchtune.models.llama3_2.lora_llama3_2",
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "vocab_size": model["vocab_size"],
            "num_layers": model["num_hidden_layers"],
            "num_heads": model["num_attention_heads"],
            "num_kv_heads": model["num_key_value_heads"],
            "embed_dim": model["hidden_size"],
            "intermediate_dim": model["intermediate_size"],
            "max_seq_len": model["max_position_embeddings"],
            "norm_eps": model["rms_norm_eps"],
            "rope_base": int(model.get("rope_theta") or model["rope_parameters"]["rope_theta"]),
            "scale_factor": 1,
            "lora_rank": task.rank,
            "lora_alpha": task.alpha,
        },
        "tokenizer": {"_component_": f"{HERE}.Tokenizer"},
        "checkpointer": {
            "_component_": "torchtune.training.FullModelHFCheckpointer",
            "checkpoint_dir": task.model,
            "checkpoint_files": files,
            "output_dir": task.work,
            "model_type": "LLAMA3_2",
        },
        "resume_from_checkpoint": False,
        "save_adapter_weights_only": True,
        "dataset": {"_component_": f"{HERE}.samples", "packed": packing},
        "seed": task.seed,
        "shuffle": False,
        "batch_size": rows_a_pass,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": task.lr,
            "weight_decay": 0.0,
            "fused": True,
        },
        "lr_scheduler": {
            "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup",
            "num_warmup_steps": 0,
            "num_cycles": 0,  # constant
        },
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "epochs": 1,
        "max_steps_per_epoch": task.steps,
        "gradient_accumulation_steps": passes,
        "clip_grad_norm": 1.0,
        "compile": task.settings.get("compile", False),
        "metric_logger": {"_component_": f"{HERE}.Logger"},
        "device": "cpu",
        "dtype": {"float32": "fp32", "bfloat16": "bf16"}[task.dtype],
    }


def main() -> None:
    sys.modules[HERE] = sys.modules["__main__"]
    task = read_task()
    import torchtune
    from omegaconf import OmegaConf

    rows = read_rows(task)
    tokens, packing = tokens_of_steps(task, rows), task.settings.get("packing", False)
    size, passes = task.micro_batch_size, task.batch_size // task.micro_batch_size
    if packing:
        packs = samples(None, True).packs
        size, passes = len(packs) // task.steps, 1
        filled = [int((pack["tokens"] != Tokenizer.pad_id).sum()) for pack in packs]
        tokens = [sum(filled[step * size : (step + 1) * size]) for step in range(task.steps)]
    path = Path(torchtune.__file__).parents[1] / "recipes" / "lora_finetune_single_device.py"
    recipe = runpy.run_path(str(path))["LoRAFinetuneRecipeSingleDevice"]
    config = OmegaConf.create(configuration(task, size, passes, packing))
    training = recipe(config)
    training.setup(config)
    training.train()
    report(task, record, tokens)


if __name__ == "__main__":
    main()
