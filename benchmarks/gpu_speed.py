"""LoRA and QLoRA of a 7B model on one GPU: xtune, TRL's SFTTrainer and unsloth on the same samples, in one run.

    python benchmarks/gpu_speed.py RESULT.json [--contestants xtune-lora trl-lora-nogc …] [--steps 10] [--profile]

The weights are random, of LLaMA-2-7B's shape (to try it out: --shape tiny --device cpu). "short": 32 samples a step, as
long as those of alpaca_en_demo.json; "long": 4 of about 1,900 tokens. Rank 16 on all linear layers, bfloat16. Each
contestant has a process of its own; one that fails or takes too long is recorded with its last lines, and the others
go on. What they print goes to RESULT.log.

A contestant is TOOL-METHOD, and what differs from the tool's own choice, each after a hyphen:

    x2, x4 …       forward passes that a step is split into
    gc, nogc       gradient checkpointing, or none
    padded, packed, flex, noliger   of TRL, which else has all samples of a pass in one row (padding_free) with torch's
                   SDPA and Liger's kernels: rows padded; rows packed ("bfd"); flex attention; no Liger

A product of large matrices in bfloat16 is timed before and after. "of peak" is the share of its rate that the model's
own operations reach (gpu_work.operations); nothing counts twice that is computed twice.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_work import SETTINGS, SHAPES, Task

HERE = Path(__file__).parent
CONTESTANTS = ["xtune-lora", "trl-lora", "unsloth-lora", "xtune-qlora", "trl-qlora", "unsloth-qlora"]
PACKAGES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "trl", "liger-kernel")
NAME = re.compile(r"(xtune|unsloth|trl)-q?lora(-(x[248]|gc|nogc|padded|packed|flex|noliger))*")
ENOUGH = 20  # seconds, below which no contestant is started


def in_process(task: Task, command: list[str], seconds: float, log: Path, path: str = "") -> str:
    """Runs one of our scripts, for so long at most. Returns what went wrong with its last lines, or nothing."""
    environment = {
        **os.environ,
        **({"PYTHONPATH": path} if path else {}),
        "XTUNE_HOME": tempfile.mkdtemp(dir=task.work),  # no data encoded before
        "HF_HUB_OFFLINE": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(task.work / "unsloth"),
        "PYTHONUNBUFFERED": "1",
    }
    with open(log, "ab") as out:
        out.write(f"\n===== {' '.join(command)}\n".encode())
        out.flush()
        begin = out.tell()
        process = subprocess.Popen(
            [sys.executable, *command], stdout=out, stderr=out, env=environment, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
            wrong = f"exit status {code}" if code else ""
        except subprocess.TimeoutExpired:
            wrong = f"stopped after {seconds:.0f} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with compilers that it may have started
        process.wait()
    if not wrong:
        return ""
    last = log.read_bytes()[begin:].decode(errors="replace").splitlines()[-12:]
    return "\n".join([*last, wrong])


def contest(task: Task, name: str, seconds: float, log: Path, path: str) -> dict:
    """A contestant's figures by setting."""
    file = task.work / f"{name}.figures"
    file.unlink(missing_ok=True)
    command = [str(HERE / "gpu_contestants.py"), name, str(time.time()), str(task.work)]
    wrong = in_process(task, command, seconds, log, path)
    found: dict[str, dict] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        found |= json.loads(line)
    return {setting: found.get(setting, {"error": wrong}) for setting in task.settings}


def compare(task: Task, chosen: argparse.Namespace, end: float) -> None:
    log, results, rates = chosen.result.with_suffix(".log"), {}, []

    def time_product() -> None:
        wrong = in_process(task, [str(HERE / "gpu_work.py"), "product", str(task.work)], 60, log)
        rates.append(0.0 if wrong else float((task.work / "product").read_text()))
        print(f"product of large matrices: {rates[-1] / 1e12:.1f} TFLOP/s {wrong}", flush=True)

    def write() -> None:
        told = about(task) | {"product_tflops": [rate / 1e12 for rate in rates], "results": results}
        chosen.result.write_text(json.dumps(told, indent=1) + "\n")

    task.write()
    begun = time.time()
    if wrong := in_process(task, [str(HERE / "gpu_work.py"), "make", str(task.work)], 240, log):
        sys.exit(wrong)
    print(f"model and data: {time.time() - begun:.0f} s", flush=True)
    time_product()
    for name in chosen.contestants:
        begun = time.time()
        if end - begun < ENOUGH:
            results[name] = {setting: {"error": "no time was left"} for setting in task.settings}
            continue
        path = chosen.unsloth if name.startswith("unsloth") else ""
        results[name] = contest(task, name, min(chosen.timeout, end - begun), log, path)
        print(f"{name}: {time.time() - begun:.0f} s", flush=True)
        for one in results[name].values():
            print("\n".join([one.get("error", ""), *one.get("where", ())])[-1200:].strip(), flush=True)
        if task.profile and (file := task.work / "profile.txt").is_file():
            print(file.read_text(), flush=True)
            file.unlink()
        write()
    time_product()
    write()
    print(table(results, max(rates) or 1.0))


def about(task: Task) -> dict:
    gpu = ""
    if task.on_gpu:
        gpu = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.partition(" (")[0]
    return {
        "machine": gpu or platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "shape": task.shape,
        "steps": task.steps,
        "versions": {name: installed(name) for name in PACKAGES},
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(results: dict, rate: float) -> str:
    """rate: operations a second that "of peak" counts from."""
    lines = [f"{'':24}{'':6}{'tokens/s':>9}{'of peak':>8}{'tensors':>9}{'reserved':>9}{'1st step':>9}  loss"]
    for name, settings in results.items():
        for setting, one in settings.items():
            if "error" in one:
                lines.append(f"{name:24}{setting:6}  {(one['error'].splitlines() or ['?'])[-1][:110]}")
                continue
            lines.append(
                f"{name:24}{setting:6}{one['tokens_per_s']:9,.0f}{one['tflops'] * 1e12 / rate:8.1%}"
                f"{one['allocated_gb']:6.1f} GB{one.get('reserved_gb', 0):6.1f} GB{one['first_step_s']:7.1f} s"
                f"  {one['losses'][0]:.3f} → {one['losses'][-1]:.3f}"
            )
    return "\n".join(lines)


def main() -> None:
    begun = time.time()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path, help="JSON file to write")
    parser.add_argument("--contestants", nargs="+", default=CONTESTANTS, metavar="NAME")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--shape", default="7b", choices=SHAPES)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=10, help="at least 4; the first 2 are not timed")
    parser.add_argument("--timeout", type=float, default=90, help="seconds for a contestant")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="for all; what has no time left is not run"
    )
    parser.add_argument("--unsloth", default="", metavar="PYTHONPATH", help="where unsloth's packages are")
    parser.add_argument(
        "--work", type=Path, help="folder for the model, 14 GB; kept for the next run if given"
    )
    parser.add_argument("--profile", action="store_true", help="tell the kernels that take the most time")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.contestants if not NAME.fullmatch(name)]:
        parser.error(f"no contestant is named {unknown[0]}")
    work = chosen.work or Path(tempfile.mkdtemp(prefix="gpu_speed"))
    work.mkdir(parents=True, exist_ok=True)
    task = Task(
        work.absolute(), chosen.shape, tuple(chosen.settings), chosen.steps, chosen.device, chosen.profile
    )
    try:
        compare(task, chosen, begun + chosen.seconds)
    finally:
        if chosen.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
