"""adapter_config.json: which layers it means, in PEFT's way of matching names, and saying the same of others."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.json_file import read_json

Config = dict[str, Any]
"""An adapter_config.json."""

# These concern parts of weights or layers, which are others in the other layout.
_REFUSED = (
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "megatron_config",
)
# Of the ways to begin training, those that leave the base's weights alone. The others decompose whole weights,
# and PEFT does so again in loading the adapter.
_BASE_UNCHANGED = (True, False, None, "gaussian", "orthogonal", "eva")

# The fields of PEFT 0.5 (August 2023), the first with ranks by layer. Publishers' code needs a transformers as old,
# and PEFTs before 0.14 fail at a field that they do not know, though it says nothing.
_OLD = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "peft_type",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
}
_SAYS_NOTHING = {"megatron_core", "peft_version", "qalora_group_size", "runtime_config"}  # alone


def read_config(adapter: Path) -> Config:
    """Of the adapter in a directory. Raises UsageError where there is none, or none that can be converted."""
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise UsageError(
            f"No adapter at {adapter}: it has no adapter_config.json.",
            where="ADAPTER",
            fix="Name the directory with adapter_config.json and adapter_model.safetensors.",
        )
    config = read_json(file)
    if config.get("peft_type") != "LORA":
        raise UsageError(
            f"Only LoRA adapters can be converted, and this is {config.get('peft_type')}.",
            where=str(file),
            fix="Merge it where it was trained, and use the merged model.",
        )
    if config.get("task_type") == "SEQ_CLS":
        raise UsageError(
            "This is the adapter of a reward model, whose head the publisher's code has not.",
            where=str(file),
            fix="Merge it (xtune convert merge), or write InternLM2's layout: xtune convert export --layout original.",
        )
    beyond = [f"{name} = {config[name]!r}" for name in _REFUSED if config.get(name)]
    if (begun := config.get("init_lora_weights")) not in _BASE_UNCHANGED:
        beyond.append(f"init_lora_weights = {begun!r}, which changes the base's weights")
    if beyond:
        raise UsageError(
            f"This adapter is more than factors beside layers: {'; '.join(beyond)}.",
            where=str(file),
            fix="Merge it where it was trained, and use the merged model; of PiSSA and its like, save plain LoRA "
            "(PEFT's path_initial_model_for_weight_conversion).",
        )
    return config


def value_for(config: Config, pattern: str, layer: str, default: str) -> Any:
    """A layer's rank or alpha: what the first key of `pattern` that matches says, else the field `default`."""
    patterns = config.get(pattern) or {}
    key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", layer)), None)
    return config.get(default, 8) if key is None else patterns[key]


def check_targets(config: Config, adapted: Collection[str], layers: Iterable[str], adapter: Path) -> None:
    """Check that the layers with factors in the file are those that target_modules means, of all the base's.

    PEFT would leave out the others silently, and begin anew those that the file lacks.
    """
    targets = config.get("target_modules") or []
    if targets == "all-linear":
        return
    if isinstance(targets, str):
        meant = {name for name in layers if re.fullmatch(targets, name)}
    else:
        meant = {name for name in layers if any(_ends_in(name, target, ".") for target in targets)}
    narrowed = config.get("layers_to_transform") is not None or config.get("exclude_modules")
    if stray := sorted(set(adapted) - meant):
        fault = f"has tensors of layers that target_modules does not name: {some(stray)}"
    elif not narrowed and (lacking := sorted(meant - set(adapted) - saved_layers(config, layers, adapter))):
        fault = f"lacks tensors of layers that target_modules names: {some(lacking)}"
    else:
        return
    raise UsageError(f"The adapter {fault}.", where=str(adapter), fix="Copy both of its files again.")


def saved_layers(config: Config, layers: Iterable[str], adapter: Path) -> set[str]:
    """Those that modules_to_save means, which PEFT matches by the bare end of their names."""
    named = config.get("modules_to_save") or []
    layers = list(layers)
    if unknown := [end for end in named if not any(_ends_in(name, end, "") for name in layers)]:
        raise UsageError(
            f"modules_to_save names what is no layer with weights: {some(unknown)}.",
            where=str(adapter / "adapter_config.json"),
            fix="Check that this is an adapter of a language model, and that --base is its base.",
        )
    return {name for name in layers if any(_ends_in(name, end, "") for end in named)}


def config_for(
    config: Config,
    ranks: Mapping[str, int],
    alphas: Mapping[str, float],
    saved: Collection[str],
    layers: Collection[str],
) -> Config:
    """The same config for layers of other names.

    ranks, alphas   of the layers with LoRA
    saved           those that are trained whole
    layers          all that the model has
    """
    changed = {
        "target_modules": _shortest(ranks, set(layers) - set(ranks)),
        "modules_to_save": _shortest(saved, set(layers) - set(saved), "") or config.get("modules_to_save"),
        "rank_pattern": _pattern(ranks, config.get("r", 8)),
        "alpha_pattern": _pattern(alphas, config.get("lora_alpha", 8)),
    }
    # target_modules says it all
    narrowing = {
        key: None for key in ("exclude_modules", "layers_to_transform", "layers_pattern") if key in config
    }
    return {**config, **changed, **narrowing}


def for_old_peft(config: Config) -> Config:
    """The config without later fields that are not set."""
    return {
        name: value
        for name, value in config.items()
        if name in _OLD or (value not in (None, False, {}, []) and name not in _SAYS_NOTHING)
    }


def some(names: Collection[str]) -> str:
    """The first few, and how many there are."""
    return ", ".join(sorted(names)[:3]) + (f" … ({len(names)})" if len(names) > 3 else "")


def _pattern(values: Mapping[str, float], default: float) -> dict[str, float]:
    """rank_pattern or alpha_pattern: the values that are not the default, by ends of names."""
    result = {}
    for value in sorted({value for value in values.values() if value != default}):
        same = [name for name in values if values[name] == value]
        result |= dict.fromkeys(_shortest(same, set(values) - set(same)), value)
    return result


def _shortest(wanted: Collection[str], others: Collection[str], joint: str = ".") -> list[str]:
    """The shortest ends of names that match all that are wanted and none of the others. No end reaches beyond
    the number of a layer, but whole names do."""
    found = set()
    for name in wanted:
        inner = re.sub(r".*\.\d+\.", "", name).split(".")
        ends = [".".join(inner[start:]) for start in reversed(range(len(inner)))]
        found.add(
            next((end for end in ends if not any(_ends_in(other, end, joint) for other in others)), name)
        )
    return sorted(found)


def _ends_in(name: str, end: str, joint: str) -> bool:
    return name == end or name.endswith(joint + end)
