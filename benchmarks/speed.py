"""Training speed of xtune and its peers on a CPU: the same samples in the same steps, in short turns on the same cores.

    python benchmarks/speed.py alpaca.json [--steps 4] [--rounds 3] [--only xtune,trl] [--set method.rank=64]
    python benchmarks/speed.py alpaca.json --ablation
    python benchmarks/speed.py alpaca.json --scaling

LoRA r=16 on all linear layers of SmolLM2-135M, 8 samples a step of at most 512 tokens, loss on answers, 2 cores.
xtune encodes the samples; the peers get ids and labels, so that all learn the same. Each turn is a process of its own
in the contestant's environment (peers/environments.py makes them). The machine's float32 matrix products are measured
between the turns: 4 operations a weight and token are the least that LoRA can do, and so give a limit on tokens/s.
Round 1 tries every setting; later rounds take xtune and of each peer the setting nearest to the limit.

Printed and written to benchmarks/results: tokens/s without padding and their share of the limit (first steps left out),
highest resident size, seconds from the start of the process to the end of the first step, the last loss, and xtune's
tokens/s by the contestant's in the same round; medians over the rounds. What fails is told there too. --ablation
compares xtune with itself, one technique changed at a time; --scaling at lengths of 512 to 8,192 (conversations put
together from the samples; 4,096 tokens a step, at least one), ranks of 8 to 256, and sizes of the model with random
weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers.environments import python_of

RESULTS, PEERS = Path(__file__).parent / "results", Path(__file__).parent / "peers"
WORK = {"batch_size": 8, "max_length": 512, "rank": 16, "alpha": 32, "lr": 2e-4, "seed": 0}
CORES, WEIGHTS, MOST_SECONDS = 2, 134.5e6, 1800
# Who drives a peer (peers/run_*.py), and its ways to lay samples out. In bfloat16, only those that may pay.
DRIVERS = {
    "xtune": "xtune",
    "trl": "trl",
    "llamafactory": "llamafactory",
    "unsloth": "trl",
    "ms-swift": "swift",
    "torchtune": "torchtune",
}
PADDED = {"": {}, " by length": {"by_length": True}, " one by one": {"samples_a_pass": 1}}
PACKED, COMPILED = {" packed": {"packing": True}}, {" compiled": {"compile": True}}
WAYS = {
    "trl": PADDED | {" padding-free": {"padding_free": True}},
    "llamafactory": PADDED | PACKED,
    "unsloth": PADDED | COMPILED,
    "ms-swift": PADDED,
    "torchtune": PADDED | PACKED | COMPILED,
}
FLOAT32_ONLY = (" by length", " compiled")
# Contestant: who, and its settings.
SPEED = {"xtune": ("xtune", {}), "xtune bfloat16": ("xtune", {"model.dtype": "bfloat16"})} | {
    f"{peer} {dtype}{way}": (peer, {"dtype": dtype, **settings})
    for peer, ways in WAYS.items()
    for dtype in ("float32", "bfloat16")
    for way, settings in ways.items()
    if dtype == "float32" or way not in FLOAT32_ONLY
}
KERNELS = ("loss", "lora", "mlp", "norm", "attention")
ABLATION = {
    "in plain PyTorch": {"train.fused": False},
    **{
        f"without the {kernel} kernel": {"train.fused": [other for other in KERNELS if other != kernel]}
        for kernel in KERNELS
    },
    "without kernels in C": {"kernels_in_c": False},
    "in one forward pass a step": {"train.micro_batch_size": WORK["batch_size"]},
    "without packing": {"data.packing": False},
    "with gradient checkpointing": {"train.gradient_checkpointing": True},
    "in bfloat16": {"model.dtype": "bfloat16"},
}
LENGTHS, RANKS, TOKENS_A_STEP = (512, 1024, 2048, 4096, 8192), (8, 16, 64, 256), 4096
# Of a LLaMA: hidden and intermediate size, layers, heads, key-value heads; the second as SmolLM2-360M.
SIZES = {
    "size 29M": (256, 768, 20, 4, 2),
    "size 362M": (960, 2560, 32, 15, 5),
    "size 1B": (1536, 6144, 28, 24, 8),
}


def contestants(arguments: argparse.Namespace, work: Path) -> dict[str, tuple[str, dict]]:
    """Those of this run; the others are compared with the first."""
    if arguments.ablation:
        field = {name: ("xtune", change) for name, change in ABLATION.items()}
    elif arguments.scaling:
        field = {f"rank {n}": ("xtune", {"method.rank": n, "method.alpha": 2 * n}) for n in RANKS}
        field |= {f"length {n}": ("xtune", longer(arguments.data, n, work)) for n in LENGTHS}
        field |= {
            name: ("xtune", {"model.path": str(work / name), "model.template": "smollm2"}) for name in SIZES
        }
    else:
        field = SPEED
    if arguments.only:
        starts = tuple(arguments.only.split(","))
        field = {name: who for name, who in field.items() if name.startswith(starts)}
    changed = {f"xtune {change}": ("xtune", dict([parsed(change)])) for change in arguments.set}
    return {"xtune": SPEED["xtune"], **changed, **field}


def parsed(change: str) -> tuple[str, object]:
    name, _, value = change.partition("=")
    try:
        return name, json.loads(value.replace("True", "true").replace("False", "false"))
    except json.JSONDecodeError:
        return name, value


def longer(data: str, length: int, work: Path) -> dict:
    """xtune's settings for conversations of nearly so many tokens, put together from the rows: it leaves out the last
    turns of what is too long."""
    file, messages, characters = work / f"{length}.jsonl", [], 0
    with open(file, "w", encoding="utf-8") as out:
        for row in json.loads(Path(data).read_text(encoding="utf-8")):
            question = "\n".join(filter(None, (row["instruction"], row["input"])))
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": row["output"]},
            ]
            characters += len(question) + len(row["output"])
            if characters > 5 * length:
                out.write(json.dumps({"messages": messages}) + "\n")
                messages, characters = [], 0
    return {
        "data.sources": [{"path": str(file)}],
        "data.overlong": "cut_turns",
        "data.max_length": length,
        "train.batch_size": max(1, TOKENS_A_STEP // length),
    }


def sized(name: str, like: str, folder: Path) -> float:
    """Makes a model of random weights with the tokenizer of another, and returns how many its products have."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, heads, shared = SIZES[name]
    config = LlamaConfig.from_pretrained(like)
    config.update({"hidden_size": hidden, "intermediate_size": intermediate, "head_dim": hidden // heads})
    config.update({"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": shared})
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return float(model.num_parameters())


class Stage:
    """Runs turns on the chosen cores, each in an empty directory."""

    def __init__(self, data: str, steps: int, work: Path):
        self.work = work
        find = 'from xtune.families.embedded import model_directory; print(model_directory("smollm2"))'
        model = self.output([sys.executable, "-c", find], self.environment(work)).split()[-1]
        rows = str(work / "rows.jsonl")
        self.task = {**WORK, "data": data, "steps": steps, "model": model, "rows": rows}
        self.drive("xtune", {"prepare": True})

    def environment(self, folder: Path) -> dict[str, str]:
        """What all children see: as many threads as cores, no network, and caches of their own."""
        return os.environ | {
            "OMP_NUM_THREADS": str(CORES),
            "PYTHONPATH": str(PEERS.parent),
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        }

    def output(self, command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=self.work, timeout=MOST_SECONDS
        )
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")
        return done.stdout

    def drive(self, peer: str, settings: dict) -> dict:
        """The report of one turn, with cold caches. Raises RuntimeError, OSError and SubprocessError."""
        command = [python_of(peer), str(PEERS / f"run_{DRIVERS[peer]}.py")]
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            environment = self.environment(Path(folder)) | {"XTUNE_HOME": folder}
            task = self.task | {"peer": peer, "settings": settings, "work": folder, "begun": time.time()}
            file = Path(folder, "task.json")
            file.write_text(json.dumps(task))
            told = self.output([*command, str(file)], environment)
        return json.loads(told.splitlines()[-1])

    def products(self) -> float:
        """The machine's float32 matrix products now, in FLOP/s."""
        command = [sys.executable, str(PEERS / "products.py")]
        return 1e9 * float(self.output(command, self.environment(self.work)))


def run(stage: Stage, field: dict[str, tuple[str, dict]], rounds: int) -> tuple[dict, dict]:
    """The turns of each contestant, and why some failed, by name."""
    turns: dict[str, list[dict]] = {name: [] for name in field}
    failed: dict[str, str] = {}
    weights: dict[str, float] = {}
    before = stage.products()
    for number in range(rounds):
        for name in best(turns, field) if number else list(field):
            if name in SIZES and name not in weights:
                weights[name] = sized(name, stage.task["model"], stage.work / name)
            try:
                report = stage.drive(*field[name])
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                if name == "xtune":
                    raise
                failed[name] = str(error)
                print(f"{name} failed: {error}", flush=True)
                continue
            after = stage.products()
            figures = measures(report, (before + after) / 2, weights.get(name, WEIGHTS))
            turns[name].append({"round": number, **figures, "report": report})
            before = after
            print(shown(name, turns[name][-1]), flush=True)
    return turns, failed


def measures(report: dict, products: float, weights: float) -> dict:
    """Figures of a turn of a model with so many weights, beside which the machine did so many FLOP/s. The first step
    counts as warm-up."""
    speed = sum(report["tokens"][1:]) / sum(report["seconds"][1:])
    return {
        "tokens_per_second": speed,
        "share_of_limit": speed * 4 * weights / products,
        "products": products,
        "peak_bytes": report["peak_bytes"],
        "first_step_seconds": report["seconds"][0],
        "final_loss": report["losses"][-1],
    }


def best(turns: dict[str, list[dict]], field: dict[str, tuple[str, dict]]) -> list[str]:
    """xtune in all its settings, and of each peer the one nearest to the limit in the first round."""
    done = sorted((name for name in field if turns[name]), key=lambda name: -turns[name][0]["share_of_limit"])
    first: dict[str, str] = {}
    for name in done:
        first.setdefault(name if field[name][0] == "xtune" else field[name][0], name)
    return [name for name in field if name in first.values()]


def summary(turns: dict[str, list[dict]]) -> dict[str, dict]:
    """Each contestant's figures: medians over its turns."""
    ours = {turn["round"]: turn["tokens_per_second"] for turn in turns["xtune"]}
    figures = {}
    for name, done in turns.items():
        if done:
            numbers = [key for key in done[0] if key not in ("round", "report")]
            figures[name] = {key: statistics.median(turn[key] for turn in done) for key in numbers}
            ratios = [ours[turn["round"]] / turn["tokens_per_second"] for turn in done]
            figures[name] |= {"xtune_to_this": statistics.median(ratios), "turns": done}
    return figures


HEAD = f"{'':34}{'tokens/s':>9}{'of limit':>10}{'memory':>10}{'1st step':>10}{'loss':>8}   xtune is"


def shown(name: str, figures: dict) -> str:
    ratio = f"{figures['xtune_to_this']:9.2f} ×" if "xtune_to_this" in figures else ""
    return (
        f"{name:34}{figures['tokens_per_second']:9.0f}{figures['share_of_limit']:10.0%}"
        f"{figures['peak_bytes'] / 1e9:7.2f} GB{figures['first_step_seconds']:8.1f} s"
        f"{figures['final_loss']:8.4f}{ratio}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a JSON file of alpaca rows")
    parser.add_argument("--steps", type=int, default=4, help="steps of each turn; the first is warm-up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of contestants, or how they start, with commas between")
    parser.add_argument(
        "--set", action="append", default=[], help="also xtune with this option of its recipe"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--ablation", action="store_true", help="xtune with one technique off at a time")
    mode.add_argument("--scaling", action="store_true", help="xtune by length, rank and size of the model")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps: at least 2, as the first is warm-up")
    arguments.data = str(Path(arguments.data).resolve())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(arguments.data, arguments.steps, Path(folder))
        turns, failed = run(stage, contestants(arguments, Path(folder)), arguments.rounds)
    figures = summary(turns)
    print(HEAD)
    for name, row in figures.items():
        print(shown(name, row))
    about = {
        "rows": Path(arguments.data).name,
        "steps": arguments.steps,
        "rounds": arguments.rounds,
        "machine": machine(),
        "cores": CORES,
        "date": time.strftime("%Y-%m-%d"),
        "failed": failed,
        "results": figures,
    }
    name = "ablation" if arguments.ablation else "scaling" if arguments.scaling else "speed"
    (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def machine() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
