"""How memory is taken from the system while a model trains."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within, this process keeps the memory that a step frees, for the next one, which needs as much again: what goes
    back to the system comes from it page by page, each of them cleared. Afterwards all of it goes back."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):  # as of musl
        yield
        return
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    libc.mallopt(_MMAP_THRESHOLD, 2**25)  # bytes, the most it takes: below, freed memory is used again
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2**17)  # glibc's own
        libc.malloc_trim(0)
