"""Which device a model comes to, in which type, and how many cores compute; told without torch where that can be, since
torch takes a second to import."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from xtune.model.products import core_rates
from xtune.ranks import local_rank

if TYPE_CHECKING:
    import torch

_WORTH = 1.2
"""How much faster products in bfloat16 have to be on a CPU, to make good what is not computed in it."""
_DRIVERS = ("nvidia*", "kfd", "dxg")
"""What drivers of NVIDIA, AMD and WSL make in /dev."""


def has_gpu() -> bool:
    """Whether torch finds a GPU."""
    if sys.platform == "linux" and not any(any(Path("/dev").glob(name)) for name in _DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def choose_device() -> str:
    """This process's GPU, or the CPU."""
    return f"cuda:{local_rank()}" if has_gpu() else "cpu"


def dtype_name(dtype: str = "auto") -> str:
    """Of a model's weights. "auto": bfloat16 on a GPU that has it, and on a CPU that multiplies it faster than float32
    (by measurement: without AMX, it takes twice as long); else float32."""
    if dtype != "auto":
        return dtype
    if has_gpu():
        import torch

        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        rates = core_rates()
        faster = rates["bfloat16"] > _WORTH * rates["float32"]
    return "bfloat16" if faster else "float32"


def choose_dtype(dtype: str = "auto") -> torch.dtype:
    """The torch dtype of a name, or of the one that `dtype_name` chooses."""
    import torch

    return getattr(torch, dtype_name(dtype))


def threads() -> int:
    """That torch begins with on a CPU: one a core."""
    if "torch" in sys.modules:
        return sys.modules["torch"].get_num_threads()
    told = os.environ.get("OMP_NUM_THREADS", "")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    counts = (told.isdigit() and int(told), allowed, psutil.cpu_count(logical=False))
    return min(filter(None, counts), default=1)
