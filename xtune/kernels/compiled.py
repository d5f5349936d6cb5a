"""Elementwise chains as one kernel on a GPU, by torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


@cache
def compiled(function: Callable) -> Callable:
    """The function as a kernel made when it is first called, for any number of rows (the first dimension of inputs that
    have several)."""
    kernel = torch.compile(function)

    def run(*inputs):
        for one in inputs:
            if isinstance(one, Tensor) and one.dim() > 1:
                torch._dynamo.maybe_mark_dynamic(one, 0)
        return kernel(*inputs)

    return run
