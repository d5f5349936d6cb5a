"""How much memory can be had: of a GPU, or of this machine within the limits of its container."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device."""
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return free_ram()


def free_ram() -> int:
    """Bytes that this process can still take of the machine's memory, within the limits of its container."""
    import psutil

    return min([psutil.virtual_memory().available, *container_memory()])


def largest_resident_size() -> int:
    """Bytes: the most that this process has had of the machine's memory."""
    if sys.platform == "linux":  # where ru_maxrss begins with that of the process which started this one
        if found := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M):
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def container_memory(
    root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """Bytes left in each control group (cgroup v2) with a limit that this process is in; [] elsewhere.

    What the kernel keeps of files in a group's memory (inactive_file) it gives up when it is needed.
    """
    try:
        lines = process.read_text().splitlines()
    except OSError:  # not Linux
        return []
    group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if group is None:
        return []
    left = []
    for folder in (root / group, *(root / group).parents):
        try:
            limit = (folder / "memory.max").read_text().strip()
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            used = int((folder / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
        except (OSError, ValueError):  # the root of all groups has no such files
            continue
        if limit != "max":
            left.append(max(0, int(limit) - used))
    return left
