"""What xtune sees in a model directory before it loads a weight: family, template, tokenizer, conversion, size,
and whether all of it is there."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.families import find_family, read_config, read_layout
from xtune.families.choose_template import Choice, choose_template, own_template
from xtune.families.embedded import EMBEDDED, model_directory
from xtune.families.family import Family, Layout, Options
from xtune.families.layout import Fused, native_name
from xtune.families.reward import is_reward_config
from xtune.families.tokenizer import load_tokenizer
from xtune.json_file import read_json
from xtune.model.adapters import is_reward_adapter
from xtune.model.health import FORMATS, Problem, Weights, check_tensors, meta_model, read_weights
from xtune.model.safetensors_header import instead_of_weights
from xtune.run.directory import is_run
from xtune.run.target import find_target
from xtune.terminal import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass
class Inspection:
    """What is known of a model; a part that could not be found out is None or empty, and a problem says why.

    directory      of the base model
    adapter        where there is one: its path, rank, alpha, kinds of layers, the template it was trained with
    recognised_by  what of config.json the family was told by; None stands for an entry that is not there
    options        what could be set in a recipe's `model`: value, and whether by "rule" or "set"
    template       name, why, and the first difference from the checkpoint's own
    tokenizer      kind, vocabulary (tokens), special and stop tokens
    conversion     layout, native class, stock (what that does otherwise than transformers' class), examples
                   (a tensor's name on disk to those in the model), and how many tensors are renamed, split, ignored
    architecture   layers, hidden, heads, kv_heads, context, vocabulary
    parameters     their number; counted from the model's class, not from the files
    memory         bytes of the weights once loaded, by type
    weights        files, bytes, and the share of each type among all weights on disk
    """

    path: str
    directory: str
    adapter: dict[str, Any] | None = None
    family: str = ""
    title: str = ""
    recognised_by: dict[str, Any] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    template: dict[str, str] | None = None
    tokenizer: dict[str, Any] | None = None
    conversion: dict[str, Any] | None = None
    architecture: dict[str, int] = field(default_factory=dict)
    parameters: int | None = None
    memory: dict[str, int] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def inspect(path: str, *, family: str = "auto") -> Inspection:
    """What `path` (a model, an adapter, a run, an embedded or a hub name) is. Reads no weights.

    family   as a recipe's model.family

    Raises UsageError where it is no model at all: no config.json, an unknown or a refused kind, a run without
    a result. All else that is wrong is in the inspection's `problems`.
    """
    quiet_libraries()
    base, adapter, options = path, None, Options()
    if family != "auto":
        find_family(Path(path), family)  # a program that is named here is trusted from here on
    directory = Path(path).expanduser()
    if path not in EMBEDDED and (is_run(directory) or (directory / "adapter_config.json").is_file()):
        target = find_target(path)
        base, options = target.base, target.options
        if target.adapter:
            adapter = _adapter(target.adapter, target.template.name)
    elif (directory / "xtune.json").is_file():
        options = find_target(path).options
    if family != "auto":
        options = replace(options, family=family)
    directory = model_directory(base)
    _check_config(directory)
    found = find_family(directory, options.family)
    seen = Inspection(path, str(directory), adapter, found.name, found.title)
    seen.recognised_by = _recognised_by(found, directory)
    if is_reward_config(read_config(directory)) or (adapter and is_reward_adapter(Path(adapter["path"]))):
        seen.notes.append(
            "it is a reward model: it scores answers, and writes none (xtune.load_reward_model)"
        )
    choice = _template(seen, directory, options.family)
    _tokenizer(seen, directory, options.family, choice)
    weights = read_weights(directory)
    seen.problems += weights.problems
    _weights(seen, directory, weights)
    try:
        layout = read_layout(directory, options)
        model = meta_model(directory, layout, options)
    except UsageError as error:
        seen.problems.append(Problem(error.what, str(error.where), str(error.fix)))
        return seen
    except Exception as error:  # transformers checks config.json with exceptions of many kinds
        reason = " ".join(str(error).split())[:200]
        fix = "Copy the publisher's config.json again."
        seen.problems.append(Problem(f"No causal language model can be built: {reason}", str(directory), fix))
        return seen
    _architecture(seen, model)
    _options(seen, found, options, model.config)
    _conversion(seen, layout, weights, model)
    if getattr(model.config, "quantization_config", None):
        seen.notes.append("it was quantised by its publisher: tensors not checked one by one")
    else:
        seen.problems += check_tensors(weights, directory, model, layout)
    return seen


def _check_config(directory: Path) -> None:
    file = directory / "config.json"
    if file.is_file() and (reason := instead_of_weights(file)):
        raise UsageError(f"config.json {reason}.", where=str(file), fix="Download the file itself again.")
    read_config(directory)


def _adapter(directory: Path, template: str) -> dict[str, Any]:
    config = read_json(directory / "adapter_config.json")
    targets = config.get("target_modules")
    return {
        "path": str(directory),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "targets": sorted({name.rpartition(".")[2] for name in targets})
        if isinstance(targets, list)
        else targets,
        "template": template,
    }


class _Watched(dict):
    """A config.json that remembers which of its entries were asked for."""

    def __init__(self, content: dict[str, Any]):
        super().__init__(content)
        self.asked: dict[str, Any] = {}

    def __getitem__(self, key):
        return self.asked.setdefault(key, super().__getitem__(key))

    def __contains__(self, key):
        self.asked.setdefault(key, super().get(key))
        return super().__contains__(key)

    def get(self, key, default=None):
        self.asked.setdefault(key, super().get(key))
        return super().get(key, default)


def _recognised_by(family: Family, directory: Path) -> dict[str, Any]:
    """Families are told by functions of config.json: what they look at there is the reason."""
    config = _Watched(read_config(directory))
    config.get("model_type")
    try:
        family.recognises(config)
        family.template(config, directory)
    except (KeyError, TypeError, AttributeError, OSError):
        pass  # told by the layout, which needs more
    return config.asked


def _template(seen: Inspection, directory: Path, family: str) -> Choice | None:
    try:
        own_template(directory)
        try:
            choice = choose_template("auto", directory, family=family)
        except UsageError as error:  # a base model often has none, and needs none
            seen.notes.append(f"no chat template: {error.what} {error.fix}")
            return None
    except Exception as error:  # whatever a damaged tokenizer_config.json or Jinja file brings up
        fix = "Copy tokenizer_config.json and chat_template.jinja again."
        problem = Problem(
            f"The chat template cannot be read: {str(error).splitlines()[0]}", str(directory), fix
        )
        seen.problems.append(problem)
        return None
    difference = str(choice.differences[0]) if choice.differences else ""
    seen.template = {"name": choice.template.name, "why": choice.why, "difference": difference}
    return choice


def _tokenizer(seen: Inspection, directory: Path, family: str, choice: Choice | None) -> None:
    place = Path(seen.adapter["path"]) if seen.adapter else directory
    place = place if (place / "tokenizer_config.json").is_file() else directory
    try:
        tokenizer: PreTrainedTokenizerFast = load_tokenizer(place, family=family)
    except UsageError as error:
        seen.problems.append(Problem(error.what, str(error.where), str(error.fix)))
        return
    except Exception as error:  # of Rust and of transformers, in many classes
        reason = " ".join(str(error).split())[:200]
        fix = "Copy the tokenizer's files again."
        seen.problems.append(Problem(f"The tokenizer cannot be loaded: {reason}", str(place), fix))
        return
    stops = dict.fromkeys([*(choice.template.stop_tokens if choice else ()), tokenizer.eos_token])
    seen.tokenizer = {
        "kind": type(tokenizer.backend_tokenizer.model).__name__,
        "vocabulary": len(tokenizer),
        "special": list(tokenizer.all_special_tokens),
        "stop": [token for token in stops if token],
    }
    known = tokenizer.get_vocab()
    if unknown := [token for token in seen.tokenizer["stop"] if token not in known]:
        seen.notes.append(
            f"the tokenizer does not know {', '.join(unknown)}, which ends the template's answers"
        )


def _weights(seen: Inspection, directory: Path, weights: Weights) -> None:
    elements: Counter[str] = Counter()
    for stored in weights.tensors.values():
        elements[stored.dtype] += stored.elements
    total = max(1, elements.total())
    seen.weights = {
        "files": [file.name for file in weights.files],
        "bytes": sum(file.stat().st_size for file in weights.files),
        "types": {name: count / total for name, count in elements.most_common()},
    }
    if all(any((directory / name).is_file() for name in names) for names in FORMATS):
        seen.notes.append("there are safetensors and .bin files: the safetensors are used")


def _architecture(seen: Inspection, model: PreTrainedModel) -> None:
    from torch import nn

    names = {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "context": "max_position_embeddings",
        "vocabulary": "vocab_size",
    }
    config = model.config.get_text_config()
    values = {name: getattr(config, attribute, None) for name, attribute in names.items()}
    values["kv_heads"] = values["kv_heads"] or values["heads"]
    seen.architecture = {name: value for name, value in values.items() if value is not None}
    seen.parameters = sum(weight.numel() for weight in model.parameters())
    output = model.get_output_embeddings()
    linear = sum(
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not output
    )
    # NF4 with double quantisation: a byte of scale for 64 weights, and a float for 256 of those
    four_bit = math.ceil(linear * (4 + 8 / 64 + 32 / (64 * 256)) / 8)
    seen.memory = {"bfloat16": 2 * seen.parameters, "4-bit": four_bit + 2 * (seen.parameters - linear)}


def _options(seen: Inspection, family: Family, options: Options, config: Any) -> None:
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    taken = {
        "rope": "plain" if rope == "default" else rope,
        "norm_head": getattr(config, "norm_head", None),
        "position": getattr(config, "position", None),
    }
    for name in family.options:
        seen.options[name] = {"value": taken[name], "by": "set" if name in options.chosen() else "rule"}
    if options.rope_scaling:
        seen.options["rope_scaling"] = {"value": options.chosen()["rope_scaling"], "by": "set"}


def _conversion(seen: Inspection, layout: Layout | None, weights: Weights, model: PreTrainedModel) -> None:
    if layout is None:
        seen.conversion = {"layout": "native", "class": type(model).__name__}
        return
    count: Counter[str] = Counter(same=0, renamed=0, split=0, ignored=0)
    examples: dict[str, list[str]] = {}
    for name in weights.tensors:
        new, kind = _new_names(name, layout)
        count[kind] += 1
        # of the layers the first; of the rest all
        if kind in ("renamed", "split") and not re.search(r"\.[1-9]\d*\.", name):
            examples[name] = new
    seen.conversion = {
        "layout": layout.name,
        "class": type(model).__name__,
        "stock": layout.stock,
        **count,
        "examples": dict(sorted(examples.items(), key=lambda item: -len(item[1]))),  # fused layers first
    }


def _new_names(name: str, layout: Layout) -> tuple[list[str], str]:
    if any(re.search(pattern, name) for pattern in layout.ignored):
        return [], "ignored"
    new = native_name(name, layout.weights)
    for entry in layout.weights:
        if isinstance(entry, Fused) and entry.original in name:
            return [new.replace(entry.original, part) for part in entry.native], "split"
    return [new], "same" if new == name else "renamed"
