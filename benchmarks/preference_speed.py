"""DPO in xtune and in TRL's DPOTrainer: the same steps on the same pairs, in turns on the same cores.

    python benchmarks/preference_speed.py dpo_en_demo.json [--steps 5] [--rounds 2]

LoRA r=16 on all linear layers of SmolLM2-135M, float32, 4 pairs a step, texts of at most 512 tokens; in one forward
pass (packed in xtune, padded in TRL) and pair by pair. TRL computes the reference model in every step, its default, or
before training. Each contestant has a process of its own. Prints seconds a step, seconds of everything from the start
of the process, highest resident size and losses; writes them to benchmarks/results/preference_speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from trl_options import SAME_AS_XTUNE

RESULT = Path(__file__).parent / "results" / "preference_speed.json"
BATCH, MAX_LENGTH, LR, RANK, ALPHA, BETA, SEED = 4, 512, 2e-4, 16, 32, 0.1, 0
CORES = 2
# Pairs in a forward pass; of TRL also whether the reference model is computed before training.
XTUNE = {"xtune": BATCH, "xtune, one by one": 1}
TRL = {"trl": (BATCH, False), "trl, one by one": (1, False), "trl, reference before": (BATCH, True)}


def recipe(data: str, steps: int, pairs: int = BATCH):
    from xtune.recipe.schema import Recipe

    return Recipe.model_validate(
        {
            "model": {"path": "smollm2", "dtype": "float32"},
            "method": {"kind": "lora", "rank": RANK, "alpha": ALPHA},
            "data": {"sources": [{"path": data}], "max_length": MAX_LENGTH, "overlong": "drop"},
            "train": {
                "objective": {"kind": "dpo", "beta": BETA},
                "steps": steps,
                "batch_size": BATCH,
                "micro_batch_size": pairs,
                "lr": LR,
                "schedule": "constant",
                "warmup": 0,
                "gradient_checkpointing": False,
                "seed": SEED,
            },
        }
    )


def with_xtune(data: str, steps: int, work: Path, pairs: int) -> tuple[list[float], list[float]]:
    """The losses of all steps, and their seconds."""
    import xtune

    lines = xtune.train(recipe(data, steps, pairs), run_dir=work / "run").metrics()
    return [line["loss"] for line in lines], [line["tokens"] / line["tokens_per_second"] for line in lines]


def with_trl(data: str, steps: int, work: Path, pairs: int, before: bool) -> tuple[list[float], list[float]]:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from xtune.families.embedded import model_directory
    from xtune.training.train import prepare

    class Clock(TrainerCallback):
        begun, seconds = 0.0, []

        def on_step_begin(self, *_, **__):
            self.begun = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.seconds.append(time.perf_counter() - self.begun)

    preparation = prepare(recipe(data, steps))
    rows, tokenizer = [], preparation.tokenizer
    for number in (number for step in range(steps) for number in preparation.plan.step(step)):
        chosen, rejected = preparation.dataset.texts(number)
        prompt = next(place for place, label in enumerate(chosen.labels) if label != -100)
        rows.append(
            {
                "prompt": tokenizer.decode(chosen.input_ids[:prompt]),
                # TRL puts the stop token behind the answer itself.
                "chosen": tokenizer.decode(answer(chosen, prompt)),
                "rejected": tokenizer.decode(answer(rejected, prompt)),
            }
        )
    model = AutoModelForCausalLM.from_pretrained(model_directory("smollm2"), dtype="float32")
    arguments = DPOConfig(
        output_dir=str(work / "trl"),
        max_steps=steps,
        per_device_train_batch_size=pairs,
        gradient_accumulation_steps=BATCH // pairs,
        per_device_eval_batch_size=pairs,
        precompute_ref_log_probs=before,
        precompute_ref_batch_size=pairs,
        beta=BETA,
        max_length=None,
        learning_rate=LR,
        lr_scheduler_type="constant",
        seed=SEED,
        **SAME_AS_XTUNE,
    )
    clock = Clock()
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
        callbacks=[clock],
    )
    trainer.train()
    trainer.save_model()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], clock.seconds


def answer(text, prompt: int):
    end = max(place for place, label in enumerate(text.labels) if label != -100)
    return text.input_ids[prompt:end]


def drive(name: str, data: str, steps: int, begun: float) -> None:
    """In a process of its own: train, and print what it took."""
    with tempfile.TemporaryDirectory() as work:
        if name in XTUNE:
            losses, seconds = with_xtune(data, steps, Path(work), XTUNE[name])
        else:
            losses, seconds = with_trl(data, steps, Path(work), *TRL[name])
        report = {
            "seconds_in_all": time.time() - begun,
            "seconds_a_step": statistics.median(seconds),
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "losses": losses,
        }
    print("\n" + json.dumps(report))


def measure(name: str, data: str, steps: int) -> dict:
    command = [sys.executable, __file__, data, "--steps", str(steps), "--drive", name]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*command, str(time.time())], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a JSON file of preference pairs")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--drive", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = str(Path(arguments.data).resolve())
    if arguments.drive:
        drive(arguments.drive[0], data, arguments.steps, float(arguments.drive[1]))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    runs: dict[str, list[dict]] = {name: [] for name in (*XTUNE, *TRL)}
    for _ in range(arguments.rounds):
        for name, done in runs.items():
            done.append(measure(name, data, arguments.steps))
            print(name, {**done[-1], "losses": [round(loss, 5) for loss in done[-1]["losses"]]}, flush=True)
    results = {}
    for name, done in runs.items():
        figures = {key: statistics.median(run[key] for run in done) for key in done[0] if key != "losses"}
        for key in ("seconds_a_step", "seconds_in_all"):
            ratios = [run[key] / ours[key] for run, ours in zip(done, runs["xtune"], strict=True)]
            figures[f"{key}_to_xtune"] = statistics.median(ratios)
        differences = zip(done[0]["losses"], runs["xtune"][0]["losses"], strict=True)
        results[name] = figures | {
            "losses": done[0]["losses"],
            "largest_loss_difference_to_xtune": max(abs(a - b) for a, b in differences),
        }
    print(f"{'':24}{'a step':>9}{'in all':>9}{'memory':>10}   loss apart   time / xtune's")
    for name, figures in results.items():
        print(
            f"{name:24}{figures['seconds_a_step']:7.1f} s{figures['seconds_in_all']:7.1f} s"
            f"{figures['peak_bytes'] / 1e9:7.2f} GB{figures['largest_loss_difference_to_xtune']:12.1e}"
            f"{figures['seconds_a_step_to_xtune']:7.2f} a step, {figures['seconds_in_all_to_xtune']:.2f} in all"
        )
    about = {
        "rows": Path(data).name,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "machine": platform.processor() or platform.machine(),
        "cores": CORES,
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }
    RESULT.write_text(json.dumps(about | {"results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
