"""Losses over preference pairs, from the log-probabilities of their answers: plain formulas.

Every tensor is float [pairs]. Δ is the chosen answer's value less the rejected one's.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from xtune.recipe.objective_schema import Cpo, Dpo, Orpo, Simpo


def dpo_loss(
    options: Dpo, chosen: torch.Tensor, rejected: torch.Tensor, lengths: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """The loss of each pair.

    chosen, rejected   log π(y|x) − log π_ref(y|x), summed over the answer
    lengths            tokens of the chosen and of the rejected answers

    sigmoid (Rafailov et al. 2023; smoothed: Mitchell 2023), hinge (SLiC, Zhao et al. 2023), ipo (Azar et al. 2023,
    with means over tokens, as its authors confirmed to TRL), robust (Chowdhury et al. 2024), sppo (Wu et al. 2024, with
    hard labels), nca (Chen et al. 2024), exo (Ji et al. 2024), bco (Jung et al. 2024, without its shift), apo_zero and
    apo_down (D'Oosterlinck et al. 2024).
    """
    beta, smoothing, kind = options.beta, options.label_smoothing, options.loss
    good, bad = beta * chosen, beta * rejected
    delta = good - bad
    if kind == "sigmoid":
        return -(1 - smoothing) * logsigmoid(delta) - smoothing * logsigmoid(-delta)
    if kind == "hinge":
        return torch.relu(1 - delta)
    if kind == "ipo":
        return (chosen / lengths[0] - rejected / lengths[1] - 1 / (2 * beta)) ** 2
    if kind == "robust":
        return (smoothing * logsigmoid(-delta) - (1 - smoothing) * logsigmoid(delta)) / (1 - 2 * smoothing)
    if kind == "sppo":
        return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2
    if kind == "nca":
        return -logsigmoid(good) - 0.5 * (logsigmoid(-good) + logsigmoid(-bad))
    if kind == "exo":
        right, wrong = logsigmoid(delta), logsigmoid(-delta)
        wanted = torch.tensor([1 - smoothing, smoothing], dtype=delta.dtype).log().tolist()
        return right.exp() * (right - wanted[0]) + wrong.exp() * (wrong - wanted[1])
    if kind == "bco":
        return -logsigmoid(good) - logsigmoid(-bad)
    if kind == "apo_zero":
        return 1 - good.sigmoid() + bad.sigmoid()
    return good.sigmoid() + 1 - delta.sigmoid()  # apo_down


def reference_free_loss(
    options: Orpo | Simpo | Cpo,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    lengths: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The loss of each pair.

    chosen, rejected   log π(y|x), summed over the answer
    lengths            tokens of the answers

    ORPO (Hong et al. 2024, equations 3 to 7), SimPO (Meng et al. 2024, equation 6), CPO (Xu et al. 2024, equation 5).
    """
    mean_chosen, mean_rejected = chosen / lengths[0], rejected / lengths[1]
    if isinstance(options, Orpo):
        # log odds(y) = log p - log(1 - p), p = exp(mean log-probability)
        odds = mean_chosen - mean_rejected - (_log_of_rest(mean_chosen) - _log_of_rest(mean_rejected))
        return -mean_chosen - options.weight * logsigmoid(odds)
    if isinstance(options, Simpo):
        return -logsigmoid(options.beta * (mean_chosen - mean_rejected) - options.margin)
    return -logsigmoid(options.beta * (chosen - rejected)) - options.sft_weight * mean_chosen


def _log_of_rest(log_probability: torch.Tensor) -> torch.Tensor:
    """log(1 - p), finite also where p rounds to 1."""
    return torch.log(-torch.expm1(log_probability.clamp(max=-1e-7)))


def kto_loss(
    ratios: torch.Tensor, good: torch.Tensor, baseline: float, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """The loss of each answer (Ethayarajh et al. 2024, equation 8).

    ratios     log π(y|x) − log π_ref(y|x)
    good       bool: whether the answer is a good one
    baseline   the paper's z₀: an estimate of the KL divergence from the reference, at least 0
    weights    of good and of bad answers
    """
    value = torch.where(good, beta * (ratios - baseline), beta * (baseline - ratios)).sigmoid()
    return torch.where(good, weights[0] * (1 - value), weights[1] * (1 - value))
