"""Recipes of tiny runs of every kind, and the runs of them that were never killed."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART
from tests.reliability.life import NEVER, Life
from xtune.run.directory import Run

TIMING = ("tokens_per_second", "peak_memory_gib")

FULL = ("method.kind='full'",)
UNPACKED = ("data.packing=False",)
DROPOUT = ("method.dropout=0.1",)
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "lora": (1, DROPOUT),
    "lora-unpacked": (1, (*DROPOUT, *UNPACKED)),
    "qlora": (1, ("method.kind='qlora'", *DROPOUT)),
    "full": (1, FULL),
    "full-unpacked": (1, (*FULL, *UNPACKED)),
    "lora-two": (2, DROPOUT),
    "full-two": (2, (*FULL, *UNPACKED)),
    "zero3-two": (2, ("train.deepspeed='zero3'",)),
    "fsdp-two": (2, (*FULL, "train.fsdp=True")),
    "large": (1, ("data.sources.0.path='large.jsonl'",)),
    "dpo": (1, ("train.objective='dpo'", "data.sources.0.path='pairs.jsonl'")),
    "grpo": (
        1,
        (
            "train.objective={'kind': 'grpo', 'rewards': ['judge.py:judge'], 'completions': 2, 'max_new_tokens': 8}",
            "data.sources.0.path='prompts.jsonl'",
        ),
    ),
}
"""Name to processes and what differs from the recipe."""

JUDGE = """
import ctypes, os, time

def judge(answer, row):
    time.sleep(float(os.environ.get("JUDGE_SECONDS", 0)))
    if "JUDGE_HANGS" in os.environ:  # in C, where signals do not end the waiting
        print("hangs", flush=True)
        lock = ctypes.create_string_buffer(64)
        ctypes.CDLL(None).pthread_mutex_lock(lock)
        ctypes.CDLL(None).pthread_mutex_lock(lock)
    return len(answer) % 5
"""


@dataclass(frozen=True)
class Whole:
    """A run that was never killed.

    changes   the paths that it changed, in order
    seconds   that it took
    """

    run: Run
    changes: list[str]
    seconds: float


class Runs:
    """Where the runs of the tests are."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.whole: dict[str, Whole] = {}

    def start(self, kind: str, name: str) -> list[str]:
        """Arguments that start a run."""
        options = [part for option in KINDS[kind][1] for part in ("--set", option)]
        return ["train", "recipe.py", "--run-dir", name, *options]

    def never_killed(self, kind: str) -> Whole:
        """Made when first asked for."""
        if kind not in self.whole:
            life = Life(self.start(kind, f"whole-{kind}"), self.folder, [NEVER] * KINDS[kind][0]).end()
            assert not any(life.codes), life.text
            run = Run(self.folder / f"whole-{kind}")
            self.whole[kind] = Whole(run, life.changes, time.monotonic() - life.begun)
        return self.whole[kind]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_model) -> Runs:
    """Six steps of four samples in two forward passes, with a checkpoint at every second."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
        "method = dict(kind='lora')\n"
        f"data = dict(sources=[dict(path={str(QUICKSTART / 'identity.jsonl')!r})], held_out=4)\n"
        "train = dict(steps=6, batch_size=4, micro_batch_size=2, lr=1e-3, checkpoint_every=2)\n"
        "probe = dict(prompts=['Hi'], max_new_tokens=4)\n"
    )
    large = ""  # of more than 2 MB, with no two rows alike
    for number in range(6000):
        turns = [
            {"role": "user", "content": f"What is {number}? " * 9},
            {"role": "assistant", "content": "It is. " * 9},
        ]
        large += json.dumps({"messages": turns}) + "\n"
    (folder / "large.jsonl").write_text(large)
    pairs = [
        {"prompt": f"{n} + {n}?", "chosen": f"It is {n + n}.", "rejected": f"{n}"} for n in range(10, 42)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    prompts = [{"prompt": pair["prompt"]} for pair in pairs]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    (folder / "judge.py").write_text(JUDGE)
    return Runs(folder)


def resume(runs: Runs, name: str, processes: int = 1, **options) -> Life:
    """The life in which a run is resumed, to its end."""
    return Life(["train", "--resume", name], runs.folder, [NEVER] * processes, **options).end()


def differences(one: Run, other: Run) -> list[str]:
    """What a run has that another has not: of all but timing and the moment of its start, to the bit."""
    told = []
    names = [sorted(path.name for path in run.path.iterdir()) for run in (one, other)]
    if names[0] != names[1]:
        told.append(f"files {names}")
    lines = [
        [{name: line[name] for name in line if name not in TIMING} for line in run.metrics()]
        for run in (one, other)
    ]
    if lines[0] != lines[1]:
        told.append(f"metrics {lines}")
    for name in ("held_out.jsonl", "probe.json", "completions.jsonl", "data_report.json", "recipe.py"):
        if _content(one.path / name) != _content(other.path / name):
            told.append(f"{name}: {_content(one.path / name)} and {_content(other.path / name)}")
    for folder in (one.result, *one.checkpoints.iterdir()):
        twin = other.path / folder.relative_to(one.path)
        files = [sorted(str(file.relative_to(each)) for file in each.rglob("*")) for each in (folder, twin)]
        if files[0] != files[1]:
            told.append(f"files {files}")
        for name in files[0]:
            same = _content(folder / name) == _content(twin / name)
            if (
                Path(name).suffix in (".safetensors", ".pt", ".pth") and not same
            ):  # others name paths and times
                told.append(f"{twin / name}")
    return told


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None
