"""How near `xtune estimate` comes to the measured peak of memory: six recipes of SmolLM2, each trained for three steps
in a process of its own. Prints a table; writes results/estimate_error.json.

    python benchmarks/estimate_error.py [NAME ...]
"""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys
import tempfile
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "estimate_error.json"
_WORDS = "the sea is wide and a ship small but brave sailors know each wave wind star harbour rope sail north"

RECIPES = {
    "LoRA, packed": {},
    "LoRA, padded, 8 samples a pass": {
        "data": {"packing": False},
        "train": {"micro_batch_size": 8},
    },
    "full": {"method": {"kind": "full"}},
    "QLoRA": {"method": {"kind": "qlora"}},
    "DPO, LoRA": {
        "data": {"sources": [{"path": "pairs.jsonl"}]},
        "train": {"objective": "dpo", "batch_size": 4, "micro_batch_size": 4},
    },
    "LoRA, 2,048 tokens, checkpointing": {
        "data": {"sources": [{"path": "long.jsonl"}], "max_length": 2048},
        "train": {"batch_size": 1, "gradient_checkpointing": True},
    },
}
"""By name, what differs from LoRA on packed conversations."""


def write_data(folder: Path) -> None:
    """Conversations, preference pairs and long conversations of words drawn at random."""
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choice(_WORDS.split()) for _ in range(rng.randint(least, most)))

    def chat(number: int, least: int, most: int) -> dict:
        asked = {"role": "user", "content": f"Tell {number} {text(5, 40)}"}
        return {"messages": [asked, {"role": "assistant", "content": text(least, most)}]}

    rows = {
        "chat.jsonl": [chat(number, 20, 150) for number in range(64)],
        "long.jsonl": [chat(number, 1200, 1800) for number in range(16)],
        "pairs.jsonl": [
            {"prompt": f"Tell {number} {text(5, 40)}", "chosen": text(20, 120), "rejected": text(20, 120)}
            for number in range(64)
        ],
    }
    for name, lines in rows.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_recipe(folder: Path, different: dict) -> Path:
    """A recipe file."""
    sections = {
        "model": {"path": "smollm2", "dtype": "float32"},
        "method": {"kind": "lora"},
        "data": {"sources": [{"path": "chat.jsonl"}], "max_length": 512},
        "train": {"steps": 3, "warmup": 0, "batch_size": 8, "checkpoint_every": 1000},
    }
    for section, values in different.items():
        sections[section] = values if section == "method" else {**sections[section], **values}
    file = folder / "recipe.py"
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in sections.items()), encoding="utf-8")
    return file


def measure(folder: Path, different: dict) -> dict[str, float]:
    """Estimated and measured GiB of a recipe, and the error."""
    recipe = write_recipe(folder, different)
    told = json.loads(_xtune(folder, "estimate", recipe, "--json"))
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    _xtune(folder, "train", recipe, "--run-dir", run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    peak, estimate = max(line["peak_memory_gib"] for line in lines), told["memory"]["total"] / 2**30
    parts = {name: round(told["memory"][name] / 2**30, 3) for name in told["memory"] if name != "total"}
    return {
        "estimate_gib": round(estimate, 3),
        "measured_gib": peak,
        "error": round(estimate / peak - 1, 4),
        "parts": parts,
    }


def _xtune(folder: Path, *arguments) -> str:
    command = [sys.executable, "-m", "xtune", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def main(names: list[str]) -> None:
    """Measure, print and keep."""
    results = {}
    print(f"{'':36} {'estimate':>9} {'measured':>9} {'error':>7}")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for name in names or RECIPES:
            results[name] = found = measure(Path(folder), RECIPES[name])
            shown = (f"{found[part]:.2f} GiB" for part in ("estimate_gib", "measured_gib"))
            print(f"{name:36} {' '.join(f'{one:>9}' for one in shown)} {found['error']:>+7.1%}", flush=True)
    if not names:
        about = {"machine": platform.processor() or platform.machine(), "recipes": results}
        RESULT.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
