"""Kernels in C for float32 on a CPU (c/), compiled in a second by the machine's own compiler when they are first
needed, and kept. Where there is none, callers have PyTorch."""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from xtune.cpu import cpu
from xtune.home import home

_SOURCES = sorted((Path(__file__).parent / "c").iterdir())
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
_SECONDS = 60
_KINDS = {"t": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
_TAKES = {
    "rms_norm": "ttfttii",
    "rms_norm_backward": "tttttii",
    "scale_rows": "ttttii",
    "swiglu": "ttti",
    "swiglu_backward": "tttttti",
    "rotary": "ttttfiii",
    "softmax_gradient": "tttii",
    "attention": "tttttt" + "iiiiif",
    "attention_backward": "tttttttttt" + "iiiiiif",
    "thin_backward": "tttttt" + "iiiif",
}
"""Of each kernel, what it takes: tensors, integers, numbers; behind them the threads."""


def fits(*tensors: Tensor) -> bool:
    """Whether kernels in C can compute with these: float32 numbers on a CPU for which there is a compiler."""
    on_cpu = all(one.dtype == torch.float32 and one.device.type == "cpu" for one in tensors)
    return on_cpu and library() is not None


def call(kernel: str, *arguments: Tensor | int | float) -> None:
    """Run a kernel. Tensors are those of its comment in c/, contiguous."""
    tensors = [one for one in arguments if isinstance(one, Tensor)]
    assert all(one.is_contiguous() for one in tensors)
    values = [one.data_ptr() if isinstance(one, Tensor) else one for one in arguments]
    profiled = torch.autograd._profiler_enabled()
    with torch.profiler.record_function(f"xtune::{kernel}") if profiled else nullcontext():
        getattr(library(), kernel)(*values, torch.get_num_threads())


_one_at_a_time = threading.Lock()


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no compiler, or one that cannot."""
    with _one_at_a_time:
        return _library()


@cache
def _library() -> ctypes.CDLL | None:
    threads = _openmp()
    if threads is None:
        return None
    sources = [path.read_text(encoding="utf-8") for path in _SOURCES]
    of = f"{sources} {_FLAGS} {threads} {cpu()}"
    file = home() / "kernels" / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}.so"
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            _compile(file, threads)
        found = ctypes.CDLL(str(file))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, kinds in _TAKES.items():
        kernel = getattr(found, name)
        kernel.argtypes, kernel.restype = [*map(_KINDS.get, kinds), ctypes.c_int], None
    return found


def _compile(file: Path, threads: str) -> None:
    """Written beside and renamed: other processes may do the same at the same time."""
    with tempfile.TemporaryDirectory(dir=file.parent) as work:
        sources = [path for path in _SOURCES if path.suffix == ".c"]
        objects = [f"{path.stem}.o" for path in sources]
        # Linked with the OpenMP that PyTorch has loaded: the threads of a second one would wait for its.
        for command in (
            ["cc", *_FLAGS, "-c", *map(str, sources)],
            ["cc", "-shared", *objects, threads, "-lm", "-o", "kernels.so"],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS, cwd=work)
        (Path(work) / "kernels.so").replace(file)


def _openmp() -> str | None:
    """The library by which PyTorch runs its threads, if it is one that a compiler can link with."""
    if sys.platform != "linux":
        return None
    loaded = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    found = [path for path in loaded if Path(path).name.startswith(("libgomp", "libiomp5", "libomp"))]
    return min(found, key=lambda path: ("torch" not in path, path), default=None)
