"""How fast this machine multiplies matrices, measured once and kept."""

from __future__ import annotations

import hashlib
import json
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from xtune.cpu import cpu
from xtune.home import home, write_whole

if TYPE_CHECKING:
    import torch

_SIZES = (256, 1024, 1024)
_TURNS = 5


def core_rates() -> dict[str, float]:
    """Operations a second of products of matrices on one core of this CPU, in "float32" and "bfloat16". Measured the
    first time (a tenth of a second) for a CPU and a version of torch, then kept in the cache."""
    what = f"{cpu()} {version('torch')}"
    file = home() / "devices" / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {name: float(known[name]) for name in ("float32", "bfloat16")}
    except (OSError, ValueError, TypeError, KeyError):  # not there yet, or damaged
        pass
    import torch

    rates = {"float32": 0.0, "bfloat16": 0.0}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one that others keep waiting does not count the time
    try:
        for _ in range(_TURNS):
            for name in rates:
                rates[name] = max(rates[name], _rate(getattr(torch, name)))
    finally:
        torch.set_num_threads(threads)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"device": what, **rates}, indent=2) + "\n", by_many=True)
    return rates


def _rate(dtype: torch.dtype) -> float:
    import torch

    rows, inner, columns = _SIZES
    left, right = torch.ones(rows, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    begun = time.thread_time()
    torch.nn.functional.linear(left, right)
    return 2 * rows * inner * columns / max(time.thread_time() - begun, 1e-9)
