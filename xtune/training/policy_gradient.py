"""The losses of GRPO and RLOO over the answers of a forward pass.

Of G answers o to a prompt with rewards r, the model π and the model before training π₀:

    GRPO    A = (r - mean r) / (std r + 1e-4)
            loss = Σ over tokens  (π / sg π) (-A + β (π₀/π - log(π₀/π) - 1))
    RLOO    R = r - β Σ over tokens log(π/π₀),  A = R - mean of the other answers' R
            loss = Σ over answers  -(π(o) / sg π(o)) A

sg stops the gradient. Answers are learnt from once, by the model that wrote them: the ratios are 1, and there is
nothing to clip. GRPO is Shao et al. 2024, without the division by the deviation Dr. GRPO's advantage (Liu et al.
2025); the ratio before the divergence makes its gradient unbiased (DeepSeek-V3.2, 2025). RLOO is Ahmadian et al. 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xtune.recipe.online_schema import Grpo, Rloo


@dataclass(frozen=True)
class Answers:
    """Of a forward pass, G to each prompt, those to one prompt one after another.

    rewards     float32 [prompts, G]
    learnt      float32 [answers]: 0 for those of which nothing is learnt
    log_probs   float32 [tokens]: log π of all tokens of all answers
    owners      int64 [tokens]: the answer that each is in
    before      float32 [tokens]: log π₀; None where it does not count
    """

    rewards: Tensor
    learnt: Tensor
    log_probs: Tensor
    owners: Tensor
    before: Tensor | None = None

    def summed(self, values: Tensor) -> Tensor:
        """Values of tokens, added up over each answer: [answers]."""
        return values.new_zeros(self.rewards.numel()).index_add(0, self.owners, values)


def grpo(options: Grpo, answers: Answers) -> tuple[Tensor, Tensor | None]:
    """The loss summed over tokens, and the divergence of each token from the model before training."""
    advantages = group_advantages(answers.rewards, options.scale_rewards).flatten()
    losses, divergence = -advantages[answers.owners], None
    if answers.before is not None:
        change = answers.before - answers.log_probs
        divergence = change.exp() - change - 1
        losses = losses + options.kl * divergence
    return (_ratio(answers.log_probs) * losses * answers.learnt[answers.owners]).sum(), divergence


def rloo(options: Rloo, answers: Answers) -> tuple[Tensor, Tensor | None]:
    """The loss summed over answers, and the divergence of each token from the model before training."""
    rewards, divergence = answers.rewards, None
    if answers.before is not None:
        divergence = answers.log_probs.detach() - answers.before
        rewards = rewards - options.kl * (answers.summed(divergence) * answers.learnt).view_as(rewards)
    advantages = leave_one_out(rewards).flatten() * answers.learnt
    return (-_ratio(answers.summed(answers.log_probs)) * advantages).sum(), divergence


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """Rewards [prompts, G] less the mean of their row, divided by its standard deviation if `scale`."""
    advantages = rewards - rewards.mean(1, keepdim=True)
    return advantages / (rewards.std(1, keepdim=True) + 1e-4) if scale else advantages


def leave_one_out(rewards: Tensor) -> Tensor:
    """Rewards [prompts, G] less the mean of the others in their row."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * count / (count - 1)


def _ratio(log_probs: Tensor) -> Tensor:
    """π / sg π."""
    return torch.exp(log_probs - log_probs.detach())
