"""Next-token prediction on the tokens that carry loss: of conversations (sft) or documents (pretrain)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import Encoded
from xtune.model.log_probs import label_losses, whole
from xtune.training.objective import Loss


@dataclass(frozen=True)
class NextToken:
    """The mean over all tokens with loss of the step."""

    dataset: Dataset

    def texts(self, sample: int) -> list[Encoded]:
        """The one text."""
        return self.dataset.texts(sample)

    def weight(self, samples: Sequence[int]) -> float:
        """Tokens with loss."""
        return float(self.dataset.loss_lengths[samples].sum())

    def loss(self, model, batch: dict[str, Any]) -> Loss:
        """-log p of the labels, summed."""
        return Loss(whole(label_losses(model, batch).sum(), batch))
