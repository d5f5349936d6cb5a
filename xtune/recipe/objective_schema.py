"""What a recipe may say of its objective: what is learnt from which data, with which loss.

`objective = "dpo"` is short for `objective = dict(kind="dpo")`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from xtune.recipe.online_schema import Grpo, Rloo
from xtune.recipe.section import Section, conflict


class Sft(Section):
    kind: Literal["sft"] = "sft"
    """Next-token prediction on the assistant's turns of conversations."""


class Pretrain(Section):
    kind: Literal["pretrain"]
    """Next-token prediction on all of plain documents."""


class Dpo(Section):
    kind: Literal["dpo"]
    """Preference pairs: the chosen answer more likely, the rejected one less, beside the model before training
    (Rafailov et al. 2023)."""
    loss: Literal[
        "sigmoid", "hinge", "ipo", "robust", "sppo", "nca", "exo", "bco", "apo_zero", "apo_down"
    ] = "sigmoid"
    """sigmoid is DPO's own; robust reckons with swapped pairs (label_smoothing)."""
    beta: float = Field(0.1, gt=0)
    """How closely the model stays to the one before training; ipo's τ."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Of sigmoid, robust and exo: share of pairs that are the wrong way round."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of the chosen answers' next-token loss, added so that they stay likely (RPO)."""

    @model_validator(mode="after")
    def _smoothed(self):
        if self.label_smoothing and self.loss not in ("sigmoid", "robust", "exo"):
            raise conflict(f"{self.loss} has no label smoothing", "label_smoothing", "loss")
        if self.loss in ("robust", "exo") and not self.label_smoothing:
            raise conflict(f"{self.loss} needs label_smoothing, such as 0.1", "label_smoothing", "loss")
        return self


class Orpo(Section):
    kind: Literal["orpo"]
    """Preference pairs without a reference: next-token loss on the chosen answer, and its odds against the rejected
    one's (Hong et al. 2024)."""
    weight: float = Field(0.1, gt=0)
    """Of the odds ratio: the paper's λ."""


class Simpo(Section):
    kind: Literal["simpo"]
    """Preference pairs without a reference: log-probabilities a token (Meng et al. 2024)."""
    beta: float = Field(2.0, gt=0)
    """Scale of the difference."""
    margin: float = Field(1.0, ge=0)
    """By which the chosen answer has to lead, the paper's γ."""


class Cpo(Section):
    kind: Literal["cpo"]
    """Preference pairs: DPO without its reference, and the chosen answer's next-token loss (Xu et al. 2024)."""
    beta: float = Field(0.1, gt=0)
    """Scale of the difference."""
    sft_weight: float = Field(1.0, ge=0)
    """Weight of the next-token loss."""


class Kto(Section):
    kind: Literal["kto"]
    """Answers labelled good or bad, beside the model before training (Ethayarajh et al. 2024)."""
    beta: float = Field(0.1, gt=0)
    """How closely the model stays to the one before training."""
    good_weight: float = Field(1.0, gt=0)
    """Weight of good answers. Good: the weights times their numbers are about equal."""
    bad_weight: float = Field(1.0, gt=0)
    """Weight of bad answers."""


class Reward(Section):
    kind: Literal["reward"]
    """Preference pairs to a reward model: a score instead of the output layer, higher for chosen answers."""
    loss: Literal["ranking", "focal"] = "ranking"
    """ranking: -log σ(difference of scores), after Bradley and Terry. focal: InternLM2's, which turns to the pairs that
    are ranked wrong (Cai et al. 2024)."""
    gamma: float | None = Field(None, ge=0)
    """Of focal: how much less pairs count that are ranked right. None: 2."""
    barrier: float | None = Field(None, ge=0)
    """Weight of the barrier that keeps scores within ±5, the paper's λ. None: 0.02 with focal, 0 with ranking."""
    read_at: str | None = None
    """Token at which the score is read, put behind each text: InternLM2's "[UNUSED_TOKEN_130]". None: the last one."""

    @property
    def focal_gamma(self) -> float:
        """γ."""
        return 2.0 if self.gamma is None else self.gamma

    @property
    def barrier_weight(self) -> float:
        """λ."""
        return (0.02 if self.loss == "focal" else 0.0) if self.barrier is None else self.barrier

    @model_validator(mode="after")
    def _focal(self):
        if self.gamma is not None and self.loss != "focal":
            raise conflict('only loss = "focal" has a gamma', "gamma", "loss")
        return self


def _named(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


Objective = Annotated[
    Sft | Pretrain | Dpo | Orpo | Simpo | Cpo | Kto | Reward | Grpo | Rloo,
    Field(discriminator="kind"),
    BeforeValidator(_named),
]
