"""Where the time of a step goes: one step's operations, as a table to read and a trace to look at."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from xtune.terminal import messages

_STEP = 2
"""Which step is looked at, counted from 0: the first ones also compile kernels and take memory."""
_ROWS = 25
# The first that matches the name of an operation on a CPU, or of a kernel on a GPU.
_PARTS = {
    "matrix products": r"(aten::)?(mm|addmm_?|bmm|baddbmm|linear)$|gemm|nvjet|cutlass|cublas|xtune::thin",
    "attention": r"scaled_dot_product|flash|fmha|varlen|xtune::attention",
    "softmax and loss": r"softmax|nll_loss|cross_entropy",
    "4-bit and 8-bit weights": r"bitsandbytes|[qQ]uantize",
    "optimizer": r"Optimizer|optimizer|adam|lion|foreach|multi_tensor",
    "copies": r"copy|cat|Memcpy|Memset|zero_|fill_|contiguous|clone|index",
    "between processes": r"gloo|nccl|all_reduce|all_gather|c10d",
    "elementwise": r"mul|add|sub|div|silu|sigmoid|norm|pow|mean|sum|rsqrt|neg|exp|elementwise|triton|reduce|xtune::",
}


class Profile(TrainerCallback):
    """Looks at one step: writes profile.txt and profile.json.gz (for chrome://tracing or perfetto.dev) to a run, and
    prints the shares of its parts."""

    def __init__(self, run: Path):
        self.run = run
        self.profiler: profile | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == min(_STEP, state.max_steps - 1):
            on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.profiler = profile(activities=[ProfilerActivity.CPU, *on_gpu], acc_events=True)
            self.profiler.start()

    def on_step_end(self, args, state, control, **kwargs):
        if self.profiler is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.profiler.stop()
        text = table(self.profiler)
        (self.run / "profile.txt").write_text(f"Step {state.global_step}: {text}", encoding="utf-8")
        self.profiler.export_chrome_trace(str(self.run / "profile.json.gz"))
        self.profiler = None
        parts = text.split("\n\n")[0]
        messages().print(f"profile  step {state.global_step}: {parts}", markup=False)
        messages().print(f"         {self.run / 'profile.txt'}, profile.json.gz", soft_wrap=True)


def table(profiler: profile) -> str:
    """Milliseconds of each part of the step, then of the operations that take the most; of a GPU's kernels where there
    is one. Each operation counts without those that it calls."""
    on_gpu = torch.cuda.is_available()
    rows = []
    for event in profiler.key_averages():
        if on_gpu != (event.device_type == torch.autograd.DeviceType.CUDA):
            continue
        took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        rows.append((took / 1e3, event.count, event.key))
    rows.sort(reverse=True)
    parts: dict[str, float] = defaultdict(float)
    for took, _, name in rows:
        parts[part_of(name)] += took
    whole = sum(parts.values()) or 1.0
    return "\n".join(
        [
            f"{whole:.0f} ms",
            *(
                f"{took:9.1f} ms {took / whole:6.1%}  {part}"
                for part, took in sorted(parts.items(), key=lambda part: -part[1])
            ),
            "",
            *(
                f"{took:9.1f} ms {took / whole:6.1%} {count:6} × {name[:100]}"
                for took, count, name in rows[:_ROWS]
            ),
            "",
        ]
    )


def part_of(name: str) -> str:
    """The part of a step that an operation belongs to."""
    return next((part for part, pattern in _PARTS.items() if re.search(pattern, name)), "all else")
