"""Sequence parallelism: groups of processes that share the tokens of each row."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from xtune.errors import RecipeError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from transformers import PreTrainedModel


@cache
def sequence_group(processes: int) -> ProcessGroup:
    """The group of this process: those whose numbers follow one another. All processes must call it together."""
    from torch.distributed import get_rank, get_world_size, new_group

    groups = [
        new_group(list(range(start, start + processes))) for start in range(0, get_world_size(), processes)
    ]
    return groups[get_rank() // processes]


def check_sequence_parallel(model: PreTrainedModel, processes: int) -> None:
    """Raise RecipeError where the model cannot be spread over so many processes."""
    config = model.config.get_text_config()
    if config.num_attention_heads % processes:
        raise RecipeError(
            f"The model has {config.num_attention_heads} attention heads, which {processes} processes cannot share.",
            where="train.sequence_parallel",
            fix=f"Use a divisor of {config.num_attention_heads}.",
        )
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "dynamic":
        raise RecipeError(
            "The model's rotary embeddings depend on a sample's length, which no process sees whole.",
            where="train.sequence_parallel",
            fix="Use model.rope_scaling of another type, or train.sequence_parallel = 1.",
        )
