"""Losses of reward models, from the scores of answers: plain formulas.

Every tensor is float [pairs]. Finite, with finite gradients, at scores of any size.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

BOUND = 5.0
"""Scores are kept within ± this."""
EDGE = 4.99
"""Beyond ± this, the barrier goes on as a straight line, of slope 2 · 4.99 / (25 - 4.99²) = 99.9. With the usual
weight, 0.02, it pulls back by 2, and no pair pushes harder than by 1 (ranking) or 1.2 (focal)."""


def ranking_loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log p, p = σ(chosen - rejected) (Bradley and Terry 1952; Ouyang et al. 2022)."""
    return -logsigmoid(chosen - rejected)


def focal_ranking_loss(chosen: torch.Tensor, rejected: torch.Tensor, gamma: float) -> torch.Tensor:
    """-(1 - 2 max(0, p - ½))^γ log p: the clearer a pair is ranked right, the less it counts (InternLM2, Cai et al.
    2024)."""
    margin = chosen - rejected
    # 1 - 2 max(0, p - ½) = min(1, 2 (1 - p)); by logarithms, nothing is lost where p rounds to 1
    weight = (math.log(2) + logsigmoid(-margin)).clamp(max=0)
    return -torch.exp(gamma * weight) * logsigmoid(margin)


def barrier(scores: torch.Tensor) -> torch.Tensor:
    """-(log(x + 5) + log(5 - x)) of each score, as InternLM2 has it, continued from ±EDGE as straight lines, so that a
    score out of bounds has a gradient that leads back. Least at 0, where it is -2 log 5."""
    inside = scores.clamp(-EDGE, EDGE)
    slope = 2 * EDGE / (BOUND**2 - EDGE**2)
    curve = -torch.log(inside + BOUND) - torch.log(BOUND - inside)
    return curve + slope * torch.relu(scores.abs() - EDGE)
