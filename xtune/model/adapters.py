"""Adapters through PEFT: attaching new ones, loading trained ones."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import RecipeError, UsageError
from xtune.families import read_layout
from xtune.families.family import Family, Options
from xtune.families.layout import Fused, native_name
from xtune.recipe.schema import Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
"""What PEFT puts before a model's own names."""


def attach_adapter(
    model: PreTrainedModel, method: Lora, attention: Sequence[str] = Family.lora_targets
) -> PeftModel:
    """The model with a new, untrained LoRA adapter; only the adapter is trainable, in float32.

    attention   what `method.targets = "attention"` means: the family's lora_targets
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(attention) if method.targets == "attention" else method.targets,
        bias="none",
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        linear = sorted(
            {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _is_linear(module)}
        )
        raise RecipeError(
            f"No layer matches method.targets = {method.targets!r}: {str(error).splitlines()[0]}",
            where="method.targets",
            fix=f'Use "all-linear" or some of: {", ".join(linear)}',
        ) from None
    # PEFT looks for vocab_size in the base's config.json, which ChatGLM calls otherwise, and takes its absence for
    # added tokens: every checkpoint would bring both embeddings along.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def load_adapter(model: PreTrainedModel, directory: Path) -> PeftModel:
    """The model with a trained adapter, for inference. Raises UsageError where it does not fit to the last tensor."""
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    tensors = read_adapter(directory)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error, below
            adapted = PeftModel.from_pretrained(model, directory).eval()
        # PEFT keeps to itself what did not fit; loading once more, it tells.
        found = set_peft_model_state_dict(adapted, tensors)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise _does_not_fit(model, directory, tensors, str(error).splitlines()[0]) from None
    missing = [name for name in found.missing_keys if "lora_" in name and ".default" in name]
    for kind, names in (("lacks", missing), ("has what the model has not", found.unexpected_keys)):
        if names:
            some = f"{', '.join(sorted(names)[:3])}{' …' if len(names) > 3 else ''} ({len(names)})"
            raise _does_not_fit(model, directory, tensors, f"it {kind}: {some.replace('.default', '')}")
    return adapted


def read_adapter(directory: Path) -> dict[str, Tensor]:
    """The tensors of an adapter by name, on the CPU. Raises UsageError where its file is missing or broken."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safe, pickled = directory / "adapter_model.safetensors", directory / "adapter_model.bin"
    try:
        if safe.is_file() or not pickled.is_file():
            return load_file(safe)
        return torch.load(pickled, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        what = f"No weights of an adapter at {directory}: it has no {safe.name}."
    except (SafetensorError, OSError, RuntimeError, pickle.UnpicklingError) as error:
        what = f"The weights of the adapter cannot be read: {str(error).splitlines()[0]}"
    raise UsageError(what, where=str(directory), fix="Copy its files again.")


def _does_not_fit(model: PreTrainedModel, directory: Path, tensors: Iterable[str], why: str) -> UsageError:
    names = [name.removeprefix(PREFIX) for name in tensors]
    try:
        layout = read_layout(Path(model.name_or_path), Options())
    except UsageError:  # moved, or of a family that had to be named
        layout = None
    table = layout.weights if layout else ()
    fused = [entry.original for entry in table if isinstance(entry, Fused)]
    if any(native_name(name, table) != name or any(whole in name for whole in fused) for name in names):
        return UsageError(
            "The adapter was trained on its publisher's code, whose layers have other names.",
            where=str(directory),
            fix=f"xtune convert adapter {directory} OUT --base {model.name_or_path} --layout native",
        )
    return UsageError(
        f"The adapter does not fit this model: {why}",
        where=str(directory),
        fix="Load it on the base model it was trained on.",
    )


def _is_linear(module) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear)
