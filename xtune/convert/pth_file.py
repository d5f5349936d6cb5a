"""Reading a checkpoint of XTuner 0.1: a .pth file of mmengine's, or a directory of DeepSpeed's ZeRO.

Both are pickled, and hold more than tensors: histories of the log, states of optimizers. Nothing of it is run: of what
is known to be in there, an empty stand-in is made; a checkpoint with anything else is refused.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.recipe.lines import read_written
from xtune.recipe.literals import literal_sections

if TYPE_CHECKING:
    from torch import Tensor

_COPY = "Copy it again, or name another checkpoint."
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class OldCheckpoint:
    """What is in it: tensors by name, and the values of the config that XTuner keeps with them, as far as it does."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]


def read_old_checkpoint(path: Path) -> OldCheckpoint:
    """What is in `path`. Raises UsageError where that is no checkpoint, is damaged, or could run a program."""
    if path.is_file():
        with _tensors_only(path):
            held = _load(path)
        tensors = held.get("state_dict", held) if isinstance(held, dict) else None
    elif any(path.glob("*_model_states.pt")):
        held, tensors = _read_zero(path)
    else:
        raise _not_one(path)
    if not isinstance(tensors, dict) or not tensors or not all(hasattr(t, "shape") for t in tensors.values()):
        raise UsageError(
            "The file holds no weights.", where=str(path), fix="Name a checkpoint, iter_500.pth."
        )
    meta = held.get("meta")
    return OldCheckpoint(tensors, _values(meta.get("cfg") if isinstance(meta, dict) else None))


def _not_one(path: Path) -> UsageError:
    """What `path` is instead."""
    if not path.exists():
        return UsageError(f"There is nothing at {path}.", where="CHECKPOINT", fix="Check the path.")
    inside = sorted(file.name for file in path.glob("*.pth"))
    if (path / "adapter_config.json").is_file():
        what, fix = "is an adapter already", f"Use it as it is: xtune chat {path}"
    elif (path / "config.json").is_file():
        what, fix = (
            "is a model directory already, as XTuner 0.2 and later write",
            f"Use it as it is: xtune chat {path}",
        )
    elif any(path.glob("*.distcp")) or any(path.glob("*/*.distcp")):
        what = "is a checkpoint of PyTorch's distributed kind, as XTuner 0.2 and later write to resume from"
        fix = "Name the directory with config.json and safetensors that XTuner writes beside it."
    elif inside:
        what, fix = "is not a checkpoint, but holds some", f"Name one of them: {path / inside[-1]}"
    else:
        what, fix = (
            "is no checkpoint of XTuner 0.1",
            "Name a .pth file, or a directory with *_model_states.pt.",
        )
    return UsageError(f"{path} {what}.", where="CHECKPOINT", fix=fix)


def _load(file: Path) -> Any:
    import torch

    return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))


def _read_zero(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What the first process has kept besides, and all weights that were trained, in float32 where ZeRO has them so."""
    first = min(
        directory.glob("*_model_states.pt"), key=lambda file: [*map(int, re.findall(r"\d+", file.name))]
    )
    if find_spec("deepspeed") is None:
        raise UsageError(
            "This checkpoint is DeepSpeed's, which is not installed.",
            where=str(directory),
            fix='pip install "xtune[deepspeed]"',
        )
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with _tensors_only(directory, DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address):
        held = _load(first)
        if not any(
            directory.glob("*_optim_states.pt")
        ):  # without ZeRO, or without what training goes on with
            return held, held["module"]
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            tensors = get_fp32_state_dict_from_zero_checkpoint(
                str(directory.parent), tag=directory.name, exclude_frozen_parameters=True
            )
    return held, dict(tensors)


class _StandIn:
    """In place of any object that is not needed. Nothing is done with what it is made of."""

    def __new__(cls, *_: Any, **__: Any):
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_NOT_NEEDED = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "mmengine.config.config.Config",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
    "collections.deque",
    "builtins.getattr",  # of which only the name is there: the stand-in looks up nothing
    "_codecs.encode",
)
"""What mmengine and XTuner put into checkpoints besides tensors and plain values."""


@contextmanager
def _tensors_only(path: Path, *allowed: type) -> Iterator[None]:
    """Within, torch reads tensors, plain values and what is allowed, even where DeepSpeed asks it for more."""
    import torch

    stand_ins = [(_StandIn, name) for name in _NOT_NEEDED]
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals([*stand_ins, *allowed]):
            yield
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        raise UsageError(
            f"The checkpoint is not opened: it holds {named[1]}, which could run a program."
            if named
            else "The checkpoint cannot be read: it is no file of torch's, or damaged.",
            where=str(path),
            fix="If it is yours, convert it with XTuner: xtuner convert pth_to_hf." if named else _COPY,
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(f"The checkpoint cannot be read: {reason}", where=str(path), fix=_COPY) from error
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _values(text: Any) -> dict[str, Any]:
    """The values of a config's text, {} where there is none. It is not run: mmengine writes plain values only."""
    if not isinstance(text, str):
        return {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.py"
        file.write_text(text, encoding="utf-8")
        return literal_sections(read_written(str(file)).stated)
