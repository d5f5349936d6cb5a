"""Adapters through PEFT: attaching new ones, loading trained ones."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from xtune.errors import RecipeError, UsageError
from xtune.families import read_layout
from xtune.families.family import Family, Options
from xtune.families.layout import Fused, native_name
from xtune.families.reward import HEAD, is_reward_model
from xtune.json_file import read_json_if_there
from xtune.model.added_tokens import grow_embeddings
from xtune.model.loftq import make_good_quantisation
from xtune.model.reward import add_head
from xtune.recipe.faults import did_you_mean
from xtune.recipe.schema import Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from torch.nn import Module
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
"""What PEFT puts before a model's own names."""
_BEGIN_AS_SOMETHING = ("pissa", "olora", "loftq")
_FACTOR = re.compile(r"\.lora_[AB]\.")


def attach_adapter(
    model: PreTrainedModel,
    method: Lora,
    attention: Sequence[str] = Family.lora_targets,
    token_ids: Sequence[int] = (),
    whole: PreTrainedModel | None = None,
) -> PeftModel:
    """The model with a new, untrained LoRA adapter; only the adapter is trainable, in float32.

    attention   what `method.targets = "attention"` means: the family's lora_targets
    token_ids   of added tokens, whose rows of the embedding and the output layer are trained too

    whole       for `method.init = "loftq"`: the model before it was quantised, on the CPU

    Raises RecipeError where targets or layers mean nothing in this model, or the rank is too high for the start.
    """
    from peft import LoraConfig, get_peft_model

    targets = _targets(model, method, attention)
    _check_targets(model, method, targets)
    config = LoraConfig(
        # as a whole, PEFT trains the head of what it takes for a classifier
        task_type="SEQ_CLS" if is_reward_model(model) else "CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
        layers_to_transform=_layers(model, method),
        use_rslora=method.rslora,
        use_dora=method.dora,
        init_lora_weights=True if method.init in ("default", "loftq") else method.init,
        bias="none",
        **_token_rows(model, targets, token_ids),
    )
    names = _names(model)  # before some of them are wrapped
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise _no_target(names, method, str(error).splitlines()[0]) from None
    # PEFT looks for vocab_size in the base's config.json, which ChatGLM calls otherwise, and takes its absence for
    # added tokens: every checkpoint would bring both embeddings along.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    if method.init == "loftq":
        make_good_quantisation(adapted, whole)
    if method.init in _BEGIN_AS_SOMETHING:
        adapted.initial_factors = _factors(adapted)
        for name, factor in adapted.initial_factors.items():
            if "lora_A" in name and len(factor) < method.rank:
                raise RecipeError(
                    f"method.rank is {method.rank}, and {_layer(name)} has only rank {len(factor)}.",
                    where="method.rank",
                    fix=f'Lower it, or use method.init = "default" in place of "{method.init}".',
                )
    return adapted


def save_adapter(model: PeftModel, directory: Path) -> None:
    """Write a trained adapter, as one that stands beside the original base.

    PiSSA and OLoRA begin with W = W' + s B₀ A₀ and train beside W'; LoftQ with W ≈ Q + s B₀ A₀, beside the quantised Q.
    What they learnt is s (B A - B₀ A₀), which PEFT writes as a plain adapter of twice the rank. (Checkpoints keep A and
    B, to go on from.)
    """
    from safetensors.torch import load_file, save_file

    initial = getattr(model, "initial_factors", None)
    if initial is None:
        model.save_pretrained(directory)
        return
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*changes the base weights")  # that is why
        warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")  # only in comparing
        start = Path(folder) / "initial"
        start.mkdir()
        save_file(initial, start / "adapter_model.safetensors", metadata={"format": "pt"})
        model.save_pretrained(directory, path_initial_model_for_weight_conversion=str(start))
    # PEFT leaves out all else: DoRA's lengths, which are those of W' + s B A, and the rows of added tokens.
    others = {name: tensor for name, tensor in _factors(model).items() if not _FACTOR.search(name)}
    if others:
        file = directory / "adapter_model.safetensors"
        save_file({**load_file(file), **others}, file, metadata={"format": "pt"})


_ELSEWHERE = ("adapters", "shadow_model", "megatron_config")
"""What adapter_config.json names other models by, or modules to import: PEFT's X-LoRA, Shadow and Megatron's layers."""


def load_adapter(model: PreTrainedModel, directory: Path, *, weightless: bool = False) -> PeftModel:
    """The model with a trained adapter, for inference. Raises UsageError where it does not fit to the last tensor.

    weightless   the model's weights are not there yet, so that nothing may be computed of them
    """
    from peft import PeftModel
    from peft.utils import set_peft_model_state_dict

    tensors = read_adapter(directory)
    config = read_json_if_there(directory / "adapter_config.json")
    if named := [name for name in _ELSEWHERE if config.get(name)]:
        raise UsageError(
            f"The adapter is of a kind that loads other models or programs, and is not opened ({named[0]}).",
            where=str(directory / "adapter_config.json"),
            fix="Use a LoRA adapter.",
        )
    if ids := trained_tokens(directory):
        grow_embeddings(model, ids)
    if is_reward_adapter(directory):
        add_head(model, seed=0)  # the adapter brings its weights
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error, below
            adapted = PeftModel.from_pretrained(model, directory, low_cpu_mem_usage=weightless).eval()
        # PEFT keeps to itself what did not fit; loading once more, it tells.
        found = set_peft_model_state_dict(adapted, tensors)
    except (RuntimeError, ValueError, OSError, KeyError) as error:
        raise _does_not_fit(model, directory, tensors, str(error).splitlines()[0]) from None
    absent = {name for name in found.missing_keys if ".default" in name}
    missing = [name for name, _ in adapted.named_parameters() if name in absent]  # what is tied, only once
    for kind, names in (("lacks", missing), ("has what the model has not", found.unexpected_keys)):
        if names:
            some = f"{', '.join(sorted(names)[:3])}{' …' if len(names) > 3 else ''} ({len(names)})"
            raise _does_not_fit(model, directory, tensors, f"it {kind}: {some.replace('.default', '')}")
    return adapted


def is_reward_adapter(directory: Path) -> bool:
    """Whether an adapter has the head of a reward model in it."""
    return read_json_if_there(directory / "adapter_config.json").get("task_type") == "SEQ_CLS"


def trained_tokens(directory: Path) -> set[int]:
    """The ids of tokens whose rows an adapter holds."""
    rows = read_json_if_there(directory / "adapter_config.json").get("trainable_token_indices") or {}
    return {index for ids in (rows.values() if isinstance(rows, dict) else [rows]) for index in ids}


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


def _targets(model: PreTrainedModel, method: Lora, attention: Sequence[str]) -> str | list[str]:
    """As PEFT takes them: names, or "all-linear", which it does not combine with chosen layers. (A regex of PEFT's may
    match nothing but what gets an adapter.)"""
    targets = method.targets
    if targets == "attention":
        return list(attention)
    if targets == "all-linear" and method.layers is not None:
        outputs = model.get_output_embeddings(), getattr(model, HEAD, None)
        return sorted({_last(name) for name, module in _linear(model) if module not in outputs})
    if isinstance(targets, list) or targets == "all-linear":
        return targets
    found = [name for name, _ in _linear(model) if re.fullmatch(targets, name)]
    if not found:
        raise _no_target(_names(model), method)
    return found


def _check_targets(model: PreTrainedModel, method: Lora, targets: str | list[str]) -> None:
    """Raise RecipeError for names that PEFT would pass over, and for what cannot begin as `method.init` says."""
    from torch import nn

    if targets == "all-linear":
        return
    modules = {target: _meant(model, target) for target in targets}
    if isinstance(method.targets, list) and (unknown := [name for name in modules if not modules[name]]):
        near = {_last(name) for name, _ in _linear(model)}
        told = (f"No layer matches {name!r}{did_you_mean(name, near) or '.'}" for name in unknown)
        raise _no_target(_names(model), method, text=" ".join(told))
    shared = model.get_input_embeddings().weight
    for name, module in (each for found in modules.values() for each in found.items()):
        if method.layers is not None and not re.search(r"\.\d+\.", name):
            raise RecipeError(
                f"method.layers says in which layers, and {name} is in none.",
                where="method.layers",
                fix="Leave one of the two out, or name layers by a regex in method.targets.",
            )
        why = None
        if isinstance(module, nn.Embedding):
            why = "is an embedding"
        elif method.init != "loftq" and getattr(module, "weight", None) is shared:
            why = "shares its weights with the embedding"
        if why and method.init in _BEGIN_AS_SOMETHING:
            raise RecipeError(
                f'{name} {why}, and cannot begin as method.init = "{method.init}" says.',
                where="method.targets",
                fix=f'Leave it out, or use method.init = "default" in place of "{method.init}".',
            )


def _meant(model: PreTrainedModel, target: str) -> dict[str, Module]:
    """The modules that a name of PEFT's target_modules means, by their whole names."""
    return {name: module for name, module in model.named_modules() if f".{name}".endswith(f".{target}")}


def _token_rows(model: PreTrainedModel, targets: str | list[str], ids: Sequence[int]) -> dict[str, Any]:
    """What PEFT is told to train rows of the embedding and the output layer. It computes with them as a plain Linear
    without bias does; another output layer (Baichuan2's divides by the rows' lengths) is trained whole."""
    from torch import nn

    if not ids:
        return {}
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules() if module in (embedding, output)}
    meant = () if targets == "all-linear" else {name for target in targets for name in _meant(model, target)}
    for name in names.values():
        if name in meant:
            raise RecipeError(
                f"{name} cannot get an adapter: for model.added_tokens, rows of it are trained.",
                where="method.targets",
                fix="Leave it out.",
            )
    rows = {_last(names[embedding]): list(ids)}
    if output is None or output.weight is embedding.weight:
        return {"trainable_token_indices": rows}
    head = _last(names[output])
    if type(output) is nn.Linear and output.bias is None:
        return {"trainable_token_indices": {**rows, head: list(ids)}}
    return {"trainable_token_indices": rows, "modules_to_save": [head]}


def _layers(model: PreTrainedModel, method: Lora) -> list[int] | None:
    if method.layers is None:
        return None
    number = model.config.get_text_config().num_hidden_layers
    if beyond := [layer for layer in method.layers if not 0 <= layer < number]:
        raise RecipeError(
            f"method.layers names {beyond[0]}, and the model has layers 0 to {number - 1}.",
            where="method.layers",
            fix="Number them from 0.",
        )
    return method.layers


def _no_target(names: list[str], method: Lora, why: str = "", text: str = "") -> RecipeError:
    """No layer was found, or one that takes no adapter, which PEFT's `why` begins to name.

    names   of the linear layers
    """
    if isinstance(method.targets, str):
        what = f'method.targets = "{method.targets}"'
        fix = f'Use "all-linear", "attention", or a regex for whole names, such as {", ".join(names[:2])}'
    else:
        what = f"method.targets = {method.targets}"
        fix = f'Use "all-linear" or some of: {", ".join(sorted({*map(_last, names)}))}'
    text = text or f"No linear layer matches {what}."
    if why.startswith("Target module "):  # "… LlamaAttention( … is not supported"
        text = f"{what} matches what is not linear: {why.split()[2].rstrip('(')}"
    # Mamba's kernels, for example, read the weight itself.
    if refused := re.search(r"Module '(\w+)' is incompatible with", why):
        text = f"{what} matches {refused[1]}, which takes no adapter in this model."
        fix = f"Use method.targets = {sorted({_last(name) for name in names if '.' in name} - {refused[1]})}"
    return RecipeError(text, where="method.targets", fix=fix)


def _factors(model: PeftModel) -> dict[str, Tensor]:
    """A copy of an adapter's tensors on the CPU, by the names that they have in its file."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _layer(tensor: str) -> str:
    return tensor.removeprefix(PREFIX).partition(".lora_")[0]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _names(model: PreTrainedModel) -> list[str]:
    return [name for name, _ in _linear(model)]


def _linear(model: PreTrainedModel) -> list[tuple[str, Module]]:
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D  # GPT-2's

    return [(name, module) for name, module in model.named_modules() if isinstance(module, Linear | Conv1D)]
