"""What a recipe may say of online reinforcement learning: the model answers prompts, rewards judge the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from xtune.recipe.section import Section, conflict


class RewardTerm(Section):
    """One of several rewards, which are added up. A function alone is short for dict(function=...)."""

    function: str | None = None
    """A function of yours, reward(answer, row), here or "file.py:function"; or "answer": 1 where the answer's last
    number, or what is in its last \\boxed{}, is the row's, else 0."""
    model: str | None = None
    """Run or model directory of a reward model, which scores the conversation with the answer."""
    condition: str | None = None
    """Of a reward model: under which condition it scores. None: that of the prompt's source."""
    weight: float = 1.0
    """What the reward is multiplied by."""

    @model_validator(mode="after")
    def _one(self):
        if (self.function is None) == (self.model is None):
            raise conflict("give function or model", "function", "model")
        if self.condition is not None and self.model is None:
            raise conflict("only a reward model has conditions", "condition")
        return self


def _functions(value: Any) -> Any:
    """A function alone as the section it is short for."""
    if not isinstance(value, list):
        return value
    return [{"function": each} if isinstance(each, str) else each for each in value]


class _Online(Section):
    kind: str
    rewards: Annotated[list[RewardTerm], BeforeValidator(_functions)] = Field(min_length=1)
    """What answers are judged by: functions of yours, "answer", reward models."""
    completions: int = Field(8, ge=2)
    """Answers to each prompt; train.batch_size counts prompts."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(1.0, gt=0)
    """At which answers are sampled."""
    kl: float = Field(0.0, ge=0)
    """Weight of the divergence from the model before training, the papers' β."""
    mask_truncated: bool = False
    """Learn nothing from answers that max_new_tokens cut off."""
    generation_batch: int = Field(64, ge=1)
    """Answers that are written at once: fewer take less memory and more time."""


class Grpo(_Online):
    kind: Literal["grpo"]
    """Group relative policy optimisation: each answer is judged beside the others to its prompt (Shao et al. 2024)."""
    scale_rewards: bool = True
    """Divide by the standard deviation of a prompt's rewards. False: as in Dr. GRPO (Liu et al. 2025)."""


class Rloo(_Online):
    kind: Literal["rloo"]
    """REINFORCE leave-one-out: an answer's baseline is the mean of the others to its prompt (Ahmadian et al. 2024)."""
