"""The process of one contestant of gpu_speed.py: trains in each setting, and writes a line of figures for each.

python benchmarks/gpu_contestants.py NAME SECONDS_AT_START WORK
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import tempfile
import time
import traceback
from pathlib import Path

from gpu_work import ALPHA, LR, RANK, SEED, SETTINGS, Task, checkpointing, operations, passes, recipe

WARM = 2  # steps that are not timed
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock:
    """Times the steps of any trainer that is one of transformers', from within."""

    def __init__(self, task: Task, profile: bool):
        from transformers import TrainerCallback, trainer

        clock = self

        class Callback(TrainerCallback):
            def on_train_begin(self, *_, **__):
                clock.train_begin()

            def on_step_begin(self, args, state, *_, **__):
                clock.step_begin(state.global_step)

            def on_step_end(self, args, state, *_, **__):
                clock.step_end(state.global_step)

            def on_log(self, *_, logs=None, **__):
                if "loss" in logs:
                    clock.losses.append(float(logs["loss"]))

        self.task, self.profile = task, profile
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.profiler = None
        self.callbacks, self.callback = trainer.DEFAULT_CALLBACKS, Callback
        self.callbacks.append(Callback)

    def remove(self) -> None:
        self.callbacks.remove(self.callback)

    def train_begin(self) -> None:
        import torch

        if self.task.on_gpu:
            torch.cuda.reset_peak_memory_stats()

    def step_begin(self, done: int) -> None:
        if self.profile and done == WARM:
            from torch.profiler import ProfilerActivity, profile

            kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.task.on_gpu else [])]
            self.profiler = profile(activities=kinds)
            self.profiler.start()

    def step_end(self, step: int) -> None:
        import torch

        if self.task.on_gpu:
            torch.cuda.synchronize()
        self.ends.append(time.time())
        if self.profiler:
            self.profiler.stop()
            text = kernels(self.profiler, self.task.on_gpu)
            (self.task.work / "profile.txt").write_text(f"step {step}, {text}")
            self.profiler = None


def kernels(profiler, on_gpu: bool) -> str:
    """The 25 kernels, or on a CPU operators, that take the most time."""
    from torch.autograd import DeviceType

    rows = []
    for event in profiler.key_averages():
        if not on_gpu:
            rows.append((event.self_cpu_time_total, event.count, event.key))
        elif event.device_type == DeviceType.CUDA:
            rows.append((event.self_device_time_total, event.count, event.key))
    rows.sort(reverse=True)
    whole = sum(time for time, *_ in rows) or 1
    lines = [f"{whole / 1e3:.1f} ms in {sum(count for _, count, _ in rows)} calls"]
    lines += [f"{t / 1e3:9.2f} ms {t / whole:6.1%} {count:6} × {name[:100]}" for t, count, name in rows[:25]]
    return "\n".join(lines)


def with_xtune(task: Task, method: str, options: list[str], setting: str) -> list[dict]:
    """Trains. Returns the samples, in the order of the steps."""
    import xtune

    run = Path(tempfile.mkdtemp(dir=task.work)) / "run"
    xtune.train(recipe(task, setting, method, options), run_dir=run)
    return task.rows(setting)


def with_trl(task: Task, method: str, options: list[str], setting: str) -> list[dict]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16 if task.on_gpu else torch.float32,
        bnb_4bit_use_double_quant=True,
    )
    model = AutoModelForCausalLM.from_pretrained(
        task.model,
        dtype=torch.bfloat16 if task.on_gpu else torch.float32,
        device_map={"": task.device},
        quantization_config=quantisation if method == "qlora" else None,
        attn_implementation="flex_attention" if "flex" in options else "sdpa",
    )
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**trl_arguments(task, options, setting)),
        train_dataset=Dataset.from_list(task.rows(setting)),
        processing_class=AutoTokenizer.from_pretrained(task.model),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
    )
    trainer.train()
    return list(trainer.train_dataset)


def with_unsloth(task: Task, method: str, options: list[str], setting: str) -> list[dict]:
    from unsloth import FastLanguageModel  # isort: skip (it changes what others import)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    again = "unsloth" if checkpointing(options, True) else False
    model, tokenizer = FastLanguageModel.from_pretrained(
        str(task.model),
        max_seq_length=SETTINGS[setting][1],
        load_in_4bit=method == "qlora",
        use_gradient_checkpointing=again,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0,
        target_modules=ALL_LINEAR,
        use_gradient_checkpointing=again,
        random_state=SEED,
    )
    arguments = trl_arguments(task, options, setting) | {
        "gradient_checkpointing": bool(again),
        "use_liger_kernel": False,  # it has kernels of its own
        "max_length": SETTINGS[setting][1],
    }
    del arguments["padding_free"]  # it chooses
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(task.rows(setting)),
        processing_class=tokenizer,
    )
    trainer.train()
    return list(trainer.train_dataset)


def trl_arguments(task: Task, options: list[str], setting: str) -> dict:
    """Of SFTConfig."""
    longest = SETTINGS[setting][1]
    packed = "packed" in options
    free = not packed and "padded" not in options
    return {
        "output_dir": str(task.work / "trl"),
        "max_steps": task.steps,
        "per_device_train_batch_size": rows_a_step(options, setting) // passes(options),
        "gradient_accumulation_steps": passes(options),
        "padding_free": free,
        "packing": packed,
        "max_length": None if free else 2048 if packed else longest,
        "use_liger_kernel": task.on_gpu and "noliger" not in options,
        "gradient_checkpointing": checkpointing(options, True),
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "bf16": task.on_gpu,
        "use_cpu": not task.on_gpu,
        "train_sampling_strategy": "sequential",
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "seed": SEED,
    }


def rows_a_step(options: list[str], setting: str) -> int:
    """Samples; of TRL's packing, rows of 2,048 tokens, which hold about as many."""
    if "packed" in options:
        return {"short": 3, "long": 4}[setting]
    return SETTINGS[setting][0]


def measured(task: Task, clock: Clock, rows: list[dict], size: int) -> dict:
    """Tokens that are not padding, and the model's own operations, in a second: medians of the steps after WARM.

    rows   of which each step takes `size`
    """
    steps = [rows[start : start + size] for start in range(0, len(rows), size)]
    seconds = [after - before for before, after in zip(clock.ends, clock.ends[1:], strict=False)]
    timed = [(steps[step % len(steps)], seconds[step - 1]) for step in range(WARM, task.steps)]
    tokens = [sum(len(row["input_ids"]) for row in taken) for taken, _ in timed]
    return {
        "tokens_per_s": statistics.median(
            count / took for count, (_, took) in zip(tokens, timed, strict=True)
        ),
        "tokens_per_s_in_all": sum(tokens) / sum(took for _, took in timed),
        "tflops": statistics.median(operations(task.shape, taken) / took / 1e12 for taken, took in timed),
        "tokens_a_step": statistics.mean(tokens),
        "losses": [round(loss, 5) for loss in clock.losses],
        "step_s": [round(each, 4) for each in seconds],
    }


def peak(task: Task) -> dict:
    """Gigabytes in training: what tensors took, and what was taken from the device; of a CPU, the process's size."""
    if task.on_gpu:
        import torch

        allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {"allocated_gb": allocated / 1e9, "reserved_gb": reserved / 1e9}
    import resource

    return {"allocated_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}


TOOLS = {"xtune": with_xtune, "trl": with_trl, "unsloth": with_unsloth}


def main() -> None:
    name, begun, task = sys.argv[1], float(sys.argv[2]), Task.read(Path(sys.argv[3]))
    tool, method, *options = name.split("-")
    if tool == "unsloth":
        import unsloth  # noqa: F401 (before transformers, which it changes)
    for setting in task.settings:
        clock = Clock(task, task.profile and setting == task.settings[0])
        try:
            rows = TOOLS[tool](task, method, options, setting)
            figures = measured(task, clock, rows, rows_a_step(options, setting))
        except Exception as error:
            traceback.print_exc()
            where = traceback.format_exc().strip().splitlines()[-8:]
            figures = {"error": f"{type(error).__name__}: {error}"[:500], "where": where}
        clock.remove()
        figures |= peak(task)
        if clock.ends:
            figures["first_step_s"] = clock.ends[0] - begun
        with open(task.work / f"{name}.figures", "a") as out:
            out.write(json.dumps({setting: figures}) + "\n")
        del clock
        gc.collect()
        if task.on_gpu:
            import torch

            torch.cuda.empty_cache()
        begun = time.time()


if __name__ == "__main__":
    main()
