"""What the loop asks of an objective, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from xtune.data.encoding.encode import Encoded

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Loss:
    """Of one forward pass.

    total     scalar: the loss summed over what `Objective.weight` counts
    figures   to be told beside the loss: name to (sum, number of what was summed), averaged over the step
    """

    total: torch.Tensor
    figures: dict[str, tuple[float | torch.Tensor, int]] = field(default_factory=dict)


def sums(values: dict[str, torch.Tensor]) -> dict[str, tuple[torch.Tensor, int]]:
    """Figures of each sample, [samples], as Loss takes them."""
    return {name: (each.detach().sum(), len(each)) for name, each in values.items()}


class Objective(Protocol):
    """What is learnt from the samples of a data set. Samples are named by their numbers in it."""

    def texts(self, sample: int) -> list[Encoded]:
        """What the model reads of a sample."""

    def weight(self, samples: Sequence[int]) -> float:
        """By what the loss of these samples, a whole step's, is divided: tokens with loss, or samples."""

    def loss(self, model: torch.nn.Module, batch: dict[str, Any]) -> Loss:
        """The loss of a forward pass.

        batch   collate's tensors, and "samples": the numbers of its samples, [] in a pass without any; in the first
                forward pass of each step also "share": the samples of all of this process's passes in the step, and
                "step": its number from 0, which a pass over held-out samples has none of
        """
