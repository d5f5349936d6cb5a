"""Learning from pairs of answers: DPO and its relatives beside a reference, ORPO, SimPO and CPO without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import Encoded
from xtune.model.log_probs import answer_log_probs
from xtune.recipe.objective_schema import Cpo, Dpo, Orpo, Simpo
from xtune.training.objective import Loss, sums
from xtune.training.preference_losses import dpo_loss, reference_free_loss
from xtune.training.reference import Reference


@dataclass(frozen=True)
class Preference:
    """The mean over the pairs of the step.

    reference   log-probabilities of the answers before training, for DPO
    """

    options: Dpo | Orpo | Simpo | Cpo
    dataset: Dataset
    reference: Reference | None = None

    def texts(self, sample: int) -> list[Encoded]:
        """The conversation with the chosen answer, and with the rejected one."""
        return self.dataset.texts(sample)

    def weight(self, samples: Sequence[int]) -> float:
        """Pairs."""
        return len(samples)

    def loss(self, model, batch: dict[str, Any]) -> Loss:
        """Also told: implicit rewards of both answers, their difference, how often the chosen one's is higher, and
        log π of both."""
        samples = batch["samples"]
        log_probs, counts = answer_log_probs(model, batch, 2 * len(samples))
        chosen, rejected = log_probs.view(-1, 2).unbind(1)
        lengths = tuple(counts.view(-1, 2).unbind(1))
        options = self.options
        if self.reference:
            before = self.reference.of(samples).to(chosen)
            rewards = chosen - before[:, 0], rejected - before[:, 1]
            losses = dpo_loss(options, *rewards, lengths) - options.sft_weight * chosen / lengths[0]
        else:
            losses = reference_free_loss(options, chosen, rejected, lengths)
            by_token = not isinstance(options, Cpo)
            rewards = (chosen / lengths[0], rejected / lengths[1]) if by_token else (chosen, rejected)
        scale = options.weight if isinstance(options, Orpo) else options.beta
        figures = {
            f"rewards/{name}": scale * r for name, r in zip(("chosen", "rejected"), rewards, strict=True)
        }
        figures["rewards/margin"] = scale * (rewards[0] - rewards[1])
        figures["rewards/accuracy"] = (rewards[0] > rewards[1]).float()
        figures |= {"log_probs/chosen": chosen, "log_probs/rejected": rejected}
        return Loss(losses.sum(), sums(figures))
