"""Two thousand steps leave memory and open files as they were after two hundred."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART

STEPS = 2000
WATCHED = """
import ctypes
import gc
import json
import os

from xtune.recipe.load import load_recipe
from xtune.training.metrics import Metrics
from xtune.training.train import train

log = Metrics.on_log
seen = []

def then_look(self, args, state, *more, **kwargs):
    log(self, args, state, *more, **kwargs)
    if state.global_step % 250 == 210:  # apart from checkpoints
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps of freed memory depends on chance
        pages = int(open("/proc/self/statm").read().split()[1])
        seen.append((pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))))

Metrics.on_log = then_look
train(load_recipe("recipe.py"), run_dir="run")
print(json.dumps(seen))
"""
RECIPE = """
model = dict(path={model!r}, template="smollm2", dtype="float32")
method = dict(kind="lora")
data = dict(sources=[dict(path={data!r})], held_out=0.1)
train = dict(steps={steps}, batch_size=2, lr=1e-5, checkpoint_every=100, objective={objective!r})
"""
BRIEF = {
    "kind": "grpo",
    "rewards": ["brief.py:brief"],
    "completions": 2,
    "max_new_tokens": 4,
}


def prompts(folder: Path) -> str:
    with open(folder / "prompts.jsonl", "w") as file:
        for number in range(80):
            file.write(json.dumps({"prompt": f"What is {number}?"}) + "\n")
    (folder / "brief.py").write_text("def brief(answer, row):\n    return -len(answer)\n")
    return str(folder / "prompts.jsonl")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process in /proc")
@pytest.mark.parametrize("objective", ["sft", BRIEF])
def test_memory_and_open_files_stay(tiny_model, tmp_path, objective):
    data = str(QUICKSTART / "identity.jsonl") if objective == "sft" else prompts(tmp_path)
    (tmp_path / "recipe.py").write_text(
        RECIPE.format(model=str(tiny_model), data=data, steps=STEPS, objective=objective)
    )
    done = subprocess.run([sys.executable, "-c", WATCHED], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (first, files), *_, (last, files_then) = json.loads(done.stdout.splitlines()[-1])
    print(f"{objective}: {first / 2**20:.1f} MiB, × {last / first:.4f}; {files} open files")
    assert last < 1.01 * first
    assert files_then == files
    state = next((tmp_path / "run" / "checkpoints").iterdir()) / "trainer_state.json"
    assert state.stat().st_size < 10_000  # and does not grow with the steps
