"""Prints the machine's float32 matrix products in GFLOP/s: of each shape the median call, of the shapes the fastest."""

import statistics
import time

import torch

SHAPES = ((1024, 576, 1536), (2048, 576, 1536), (2048, 1536, 576), (1024, 1024, 1024), (2048, 2048, 2048))
SECONDS = 0.6


def speed(rows: int, inner: int, columns: int) -> float:
    left, right, times = torch.randn(rows, inner), torch.randn(inner, columns), []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        begun = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - begun)
    return 2 * rows * inner * columns / statistics.median(times) / 1e9


print(max(speed(*shape) for shape in SHAPES))
