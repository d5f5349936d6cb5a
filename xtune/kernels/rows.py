"""What the kernels share: how many rows (tokens) at a time, and in which type."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CACHED = 2**19
"""Numbers of a tensor, 2 MiB in float32, that stay in the caches of a CPU from one operation to the next; with fewer,
its cores would wait for one another more often than they work."""
_MULTIPLIED = 2048
"""Rows whose products are there at once: more need more memory, fewer multiply slower."""


def row_ranges(rows: int, at_once: int) -> Iterator[slice]:
    """All rows, so many at once."""
    for start in range(0, rows, at_once):
        yield slice(start, min(start + at_once, rows))


def cached_rows(states: Tensor) -> Iterator[slice]:
    """The rows of states [rows, …] on a CPU, as many at once as stay in its cache."""
    return row_ranges(len(states), max(1, _CACHED // states[0].numel()) if len(states) else 1)


def multiplied_rows(states: Tensor) -> Iterator[slice]:
    """The rows of states [rows, …], as many at once as are worth a product: on a GPU all."""
    return row_ranges(len(states), _MULTIPLIED if states.device.type == "cpu" else max(1, len(states)))


def some(states: Tensor | None, rows: slice) -> Tensor | None:
    """These rows of states, if there are any; the states themselves, at no cost, where that is all of them."""
    if states is None or rows.stop - rows.start == states.shape[0]:
        return states
    return states[rows]


def exactly(states: Tensor) -> Tensor:
    """In float32, or more where they are."""
    return states.to(torch.promote_types(states.dtype, torch.float32))


def computing_dtype(states: Tensor) -> torch.dtype:
    """The type in which products with these states are computed: autocast's, where that is on."""
    if torch.is_autocast_enabled(states.device.type):
        return torch.get_autocast_dtype(states.device.type)
    return states.dtype
