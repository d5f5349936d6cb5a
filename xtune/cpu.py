"""The CPU of this machine."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu() -> str:
    """The CPU's name and what it can do."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
