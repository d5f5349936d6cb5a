"""What a checkpoint holds besides safetensors is pickled: read without care, it could run any program."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from xtune.errors import UsageError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_only(checkpoint: str | Path | None, deepspeed: bool) -> Iterator[None]:
    """Within, torch reads tensors and plain values only, and DeepSpeed's settings, though DeepSpeed asks for more.

    Raises UsageError for a checkpoint that holds other things.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_settings() if deepspeed else []):
            yield
    except pickle.UnpicklingError as error:
        raise UsageError(
            "The checkpoint holds more than tensors, and is not opened: it could run a program.",
            where=str(checkpoint),
            fix="Delete it, if it is not of a run of yours; an earlier one is taken then.",
        ) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _settings() -> list[type]:
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
