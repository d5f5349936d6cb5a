"""How long a step takes: its operations, by how many the device does."""

from __future__ import annotations

from math import prod

import numpy as np

from xtune.model.devices import threads
from xtune.model.products import core_rates
from xtune.recipe.schema import Full
from xtune.training.estimate.architecture import Architecture
from xtune.training.estimate.trained import Weights

_SHARES = {29e6: 0.50, 135e6: 0.63, 362e6: 0.71, 1e9: 0.81}
"""Of the limit that a CPU's matrix products set, by the number of weights (docs/speed.md)."""
_SHARE_ON_GPU = 0.58


def operations(
    method: object,
    of: Architecture,
    weights: Weights,
    *,
    tokens: float,
    labels: float,
    pairs: float,
    again: bool,
) -> float:
    """Floating-point operations of forward and backward passes, products only.

    tokens, labels   of all passes; pairs: the sum of the squared lengths of texts
    again            whether activations are computed twice

    A product with W takes 2 operations a weight and token forward, 2 for the gradient at its input and 2 for W's own,
    which frozen ones do not need. Of causal attention half of the pairs is computed, in 2 products forward and 4
    backward.
    """
    passes = 2 + (1 if isinstance(method, Full) else 0)
    layers = 2 * of.linear_parameters * tokens * (passes + again)
    adapters = 2 * weights.adapters * tokens * (3 + again)
    output = 2 * prod(of.output) * labels * passes if of.output else 0
    attention = 2 * pairs / 2 * of.heads * of.head_size * of.layers * (6 + 2 * again)
    return layers + adapters + output + attention


def operations_a_second(of: Architecture, dtype: str, *, on_gpu: bool) -> float:
    """That training reaches on this machine's device, measured the first time (xtune.model.products)."""
    if on_gpu:
        return _SHARE_ON_GPU * _gpu_rate()
    known = sorted(_SHARES)
    share = np.interp(np.log(of.parameters), np.log(known), [_SHARES[size] for size in known])
    return float(share) * core_rates()[dtype] * threads()


def _gpu_rate() -> float:
    """Of products of matrices in bfloat16."""
    import torch

    size, turns = 8192, 10
    left, right = (torch.ones(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    left @ right
    begin.record()
    for _ in range(turns):
        left @ right
    end.record()
    end.synchronize()
    return turns * 2 * size**3 / (begin.elapsed_time(end) / 1000)
