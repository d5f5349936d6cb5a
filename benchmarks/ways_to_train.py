"""Every objective with every method, in one process and in two under DeepSpeed: does it run, and does the loss fall?

    python benchmarks/ways_to_train.py DATA [--objective dpo] [--method lora] [--processes zero2]

DATA is a folder with alpaca_en_demo.json, c4_demo.jsonl, dpo_en_demo.json and kto_en_demo.json (LLaMA-Factory's demo
data); online objectives get sums to answer, and prefer short answers. Trains SmolLM2-135M by the command line, some
steps each; adds the losses (of online objectives: rewards) to benchmarks/results/ways_to_train.json, and prints the
table of docs/methods.md. What is in the results already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "ways_to_train.json"
FILES = {
    "pretrain": "c4_demo.jsonl",
    "sft": "alpaca_en_demo.json",
    **dict.fromkeys(("dpo", "orpo", "simpo", "cpo", "reward"), "dpo_en_demo.json"),
    "kto": "kto_en_demo.json",
    **dict.fromkeys(("grpo", "rloo"), "prompts.jsonl"),
}
METHODS = ("full", "lora", "qlora")
PROCESSES = {"1": [], "zero2": ["--nproc", "2"], "zero3": ["--nproc", "2"]}
STEPS, BATCH = 5, 4
RECIPE = """
def short(answer: str, row: dict) -> float:
    return -len(answer) / 100


model = dict(path="smollm2")
method = dict(kind={method!r})
data = dict(sources=[dict(path={file!r})], max_length=512)
train = dict(
    objective={objective}, steps={steps}, batch_size={batch}, micro_batch_size=2, schedule="constant", warmup=0{more}
)
"""


def recipe(data: Path, objective: str, method: str, processes: str) -> str:
    options = repr(objective)
    if objective in ("grpo", "rloo"):
        options = (
            f"dict(kind={objective!r}, rewards=[dict(function=short)], completions=4, max_new_tokens=24)"
        )
    more = "" if processes == "1" else f", deepspeed={processes!r}"
    more += f", lr={1e-3 if method != 'full' else 2e-5}"
    return RECIPE.format(
        method=method,
        file=str(data / FILES[objective]),
        objective=options,
        steps=STEPS,
        batch=BATCH,
        more=more,
    )


def some(rows: list[dict]) -> list[dict]:
    """A step's worth of short rows, so that all steps see the same and the loss has to fall; as many good as bad."""
    rows = sorted(rows, key=lambda row: len(json.dumps(row)))[len(rows) // 20 :]
    kinds = [[row for row in rows if row.get("label") is label] for label in (True, False)]
    return [*kinds[0][:2], *kinds[1][:2]] if all(kinds) else rows[:BATCH]


def run(data: Path, objective: str, method: str, processes: str) -> dict:
    folder = Path(tempfile.mkdtemp())
    (folder / "recipe.py").write_text(recipe(data, objective, method, processes))
    command = [sys.executable, "-m", "xtune", "train", "recipe.py", "--run-dir", "run", *PROCESSES[processes]]
    begun = time.perf_counter()
    environment = {
        "OMP_NUM_THREADS": "2" if processes == "1" else "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "DS_ACCELERATOR": "cpu",
    }
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    seconds = round(time.perf_counter() - begun)
    if done.returncode:
        return {"error": done.stderr[-2000:], "seconds": seconds}
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    result = folder / "run" / ("model" if method == "full" else "adapter")
    assert any(result.iterdir())
    shutil.rmtree(folder)
    told = "reward" if objective in ("grpo", "rloo") else "loss"
    return {"told": told, "values": [round(line[told], 4) for line in lines], "seconds": seconds}


def table(results: dict) -> str:
    lines = ["| objective | method | 1 process | 2, ZeRO-2 | 2, ZeRO-3 |", "| --- | --- | --- | --- | --- |"]
    for objective in FILES:
        for method in METHODS:
            cells = []
            for processes in PROCESSES:
                found = results.get(f"{objective} {method} {processes}", {})
                values = found.get("values")
                cells.append(f"{values[0]:.3f} → {values[-1]:.3f}" if values else "failed" if found else "")
            lines.append(f"| {objective} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--objective", choices=FILES)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--processes", choices=PROCESSES)
    chosen = parser.parse_args()
    data = Path(tempfile.mkdtemp())
    for file in set(FILES.values()) - {"prompts.jsonl"}:
        text = (chosen.data / file).read_text(encoding="utf-8")
        rows = (
            json.loads(text) if file.endswith(".json") else [json.loads(line) for line in text.splitlines()]
        )
        (data / file).write_text("".join(json.dumps(row) + "\n" for row in some(rows)), encoding="utf-8")
    prompts = [{"prompt": f"{a} + 2 =", "answer": str(a + 2)} for a in range(BATCH)]
    (data / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    about = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"results": {}}
    packages = ("torch", "transformers", "peft", "deepspeed")
    about["versions"] = {name: version(name) for name in packages}
    about["date"], about["steps"], about["model"] = time.strftime("%Y-%m-%d"), STEPS, "SmolLM2-135M-Instruct"
    for objective in [chosen.objective] if chosen.objective else FILES:
        for method in [chosen.method] if chosen.method else METHODS:
            for processes in [chosen.processes] if chosen.processes else PROCESSES:
                name = f"{objective} {method} {processes}"
                if "values" in about["results"].get(name, {}):
                    continue
                about["results"][name] = run(data, objective, method, processes)
                print(name, about["results"][name], flush=True)
                RESULTS.write_text(json.dumps(about, indent=1) + "\n")
    print(table(about["results"]))


if __name__ == "__main__":
    main()
