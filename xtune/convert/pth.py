"""A checkpoint of XTuner 0.1 as an adapter or a model that xtune, PEFT and Transformers load."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from xtune.convert.adapter import convert_adapter
from xtune.convert.adapter_config import config_for, some
from xtune.convert.adapter_layers import faults, layer_of
from xtune.convert.disk import check_place, disk_errors
from xtune.convert.pth_file import read_old_checkpoint
from xtune.convert.standalone import write_companions
from xtune.errors import UsageError
from xtune.families import read_config, read_layout
from xtune.families.choose_template import choose_template
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.json_file import write_json
from xtune.model.adapters import PREFIX
from xtune.model.health import read_weights
from xtune.recipe.legacy.import_config import WITHOUT_COUNTERPART, template_named
from xtune.recipe.legacy.model import import_model
from xtune.recipe.legacy.old_config import OldConfig
from xtune.recipe.load import read_config_file
from xtune.run.target import Target, write_note
from xtune.templates.template import Template

if TYPE_CHECKING:
    from torch import Tensor

Tensors = dict[str, "Tensor"]
Shapes = dict[str, tuple[int, ...]]

SHARD = "5GB"
_NAME = re.compile(r"(?:module\.)?llm\.(?P<name>.+)")
_FACTOR = re.compile(r"(?P<layer>.+)\.(?P<kind>lora_[A-Za-z_]+)(\.default)?(?P<end>\.weight|\.bias)?")
_SAVED = ".modules_to_save.default."


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """What became of a checkpoint.

    kind           what it is now
    template       the name of its chat template
    trained_with   XTuner's name of the one that it was trained with, where xtune does not have it
    rank           of an adapter, the largest of its layers'
    left_out       how many tensors were left out, by the part of XTuner's model that they belong to
    """

    path: Path
    kind: Literal["adapter", "model"]
    base: str
    template: str
    trained_with: str | None
    tensors: int
    rank: int | None
    left_out: dict[str, int]


def convert_pth(
    checkpoint: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    base: str | Path | None = None,
    alpha: float | None = None,
    template: str | None = None,
) -> ConvertedCheckpoint:
    """Write the weights in `checkpoint`, a .pth file or a ZeRO directory, into the new directory `out`.

    Of a LoRA run it becomes an adapter by transformers' names of the layers, else a model in its base's layout.

    config     the run's config, where the checkpoint holds none. It is run, but nothing that it imports of others
    base       the base model, where it is not where the config says
    alpha      of the adapter, where no config tells: tensors do not
    template   the chat template, where no config tells, or one that xtune has not

    Raises UsageError where it cannot be read, is no language model's, or does not fit the base to the last tensor.
    """
    checkpoint, out = Path(checkpoint).expanduser(), Path(out).expanduser()
    check_place(out, 0)
    held = read_old_checkpoint(checkpoint)
    values = read_config_file(config) if config else held.config
    tensors, left_out = _language_model(held.tensors, checkpoint)
    method = _said_of_model(values, config)
    directory, name = _base(base or method.get("path"), checkpoint)
    check_place(out, sum(tensor.nbytes for tensor in tensors.values()))
    named = template_named(values)
    unknown = named if named in WITHOUT_COUNTERPART else None
    chosen = _template(template or (None if unknown else named), directory)
    target = Target(name, None, chosen)
    if not any("lora_" in name for name in tensors):
        with disk_errors(out), new_directory(out) as work:
            _write_model(tensors, directory, work, checkpoint)
            write_companions(target, load_tokenizer(name), work)
        return ConvertedCheckpoint(out, "model", name, chosen.name, unknown, len(tensors), None, left_out)
    adapter = _adapter_tensors(tensors, left_out, checkpoint)
    adapter_config, rank = _adapter_config(adapter, method, alpha, directory, checkpoint)
    with disk_errors(out), new_directory(out) as work:
        _write_adapter(adapter, adapter_config, directory, work)
        tokenizer = load_tokenizer(name)
        tokenizer.chat_template = chosen.standalone
        tokenizer.save_pretrained(work)
        write_note(work, base=name, template=chosen)
    return ConvertedCheckpoint(out, "adapter", name, chosen.name, unknown, len(adapter), rank, left_out)


def _language_model(tensors: Tensors, checkpoint: Path) -> tuple[Tensors, dict[str, int]]:
    """The tensors of the language model, by the names that they have in it; and how many others there are."""
    found = {match["name"]: tensor for name, tensor in tensors.items() if (match := _NAME.fullmatch(name))}
    others = Counter(name.partition(".")[0] for name in tensors if not _NAME.fullmatch(name))
    if "v_head" in others:
        raise UsageError(
            "This is a reward model, which is not converted yet.",
            where=str(checkpoint),
            fix="Convert it with XTuner: xtuner convert pth_to_hf.",
        )
    if not found:
        raise UsageError(
            f"The checkpoint holds no language model, only {', '.join(others)}.",
            where=str(checkpoint),
            fix="Name a checkpoint of a run that trained one, with tensors named llm. …",
        )
    return found, dict(others)


def _said_of_model(values: dict[str, Any], config: str | Path | None) -> dict[str, Any]:
    """The base's path, and the options of the method, as far as the config tells."""
    model = values.get("model")
    if not isinstance(model, dict):
        if config:
            raise UsageError(
                "The config has no model = dict(...).", where=str(config), fix="Name the run's config."
            )
        return {}
    # Of whatever kind it is, the language model is what is converted; LLaVA has an adapter of another name.
    model = {**model, "type": "SupervisedFinetune", "lora": model.get("lora") or model.get("llm_lora")}
    try:
        sections = import_model(OldConfig(model, "model"))
    except UsageError:
        if config:
            raise
        return {}
    return {**sections["method"], "path": sections["model"]["path"]}


def _base(base: str | Path | None, checkpoint: Path) -> tuple[Path, str]:
    """Directory of the base, and its name as a recipe would have it."""
    directory = model_directory(str(base)) if base else None
    if directory is None or not (directory / "config.json").is_file():
        raise UsageError(
            f"The base model is not at {base}."
            if base
            else "Neither config nor checkpoint names the base model.",
            where=str(checkpoint),
            fix="Say where it is: --base DIR.",
        )
    return directory, str(base)


def _template(name: str | None, directory: Path) -> Template:
    try:
        return choose_template(name or "auto", directory).template
    except UsageError as error:
        raise UsageError(error.what, where=error.where, fix="Name a template: --template NAME.") from None


def _shapes(directory: Path) -> Shapes:
    weights = read_weights(directory)
    if weights.problems:
        problem = weights.problems[0]
        raise UsageError(problem.summary, where=problem.where, fix=problem.fix)
    return {name: stored.shape for name, stored in weights.tensors.items()}


def _adapter_tensors(tensors: Tensors, left_out: dict[str, int], checkpoint: Path) -> Tensors:
    """The adapter's tensors by the names that PEFT has in its files."""
    found: Tensors = {}
    frozen: list[str] = []
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            end = "" if match["kind"] == "lora_magnitude_vector" else match["end"] or ""
            found[f"{match['layer']}.{match['kind']}{end}"] = tensor
        elif _SAVED in name:
            found[name.replace(_SAVED, ".")] = tensor
        else:
            frozen.append(name)
    if frozen and all(name.endswith(".bias") for name in frozen):
        raise UsageError(
            f"Biases were trained besides, which are not converted: {some(frozen)}.",
            where=str(checkpoint),
            fix="Convert it with XTuner: xtuner convert pth_to_hf.",
        )
    if frozen:
        left_out["frozen weights"] = len(frozen)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _adapter_config(
    tensors: Tensors, method: dict[str, Any], alpha: float | None, directory: Path, checkpoint: Path
) -> tuple[dict[str, Any], int]:
    """What adapter_config.json says of the tensors; and the largest rank. Checks that they fit the base."""
    alpha = alpha or method.get("alpha")
    if alpha is None:
        raise UsageError(
            "How much the adapter counts, LoRA's alpha, cannot be told from its tensors.",
            where=str(checkpoint),
            fix="Name the run's config: --config OLD.py; or say it: --alpha 16.",
        )
    kinds: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        layer = match["layer"] if match else layer_of(name)
        kinds.setdefault(layer.removeprefix(PREFIX), {})[name.removeprefix(f"{layer}.")] = tensor
    ranks = {
        layer: held.get("lora_A.weight", held.get("lora_embedding_A")).shape[0]
        for layer, held in kinds.items()
        if "lora_A.weight" in held or "lora_embedding_A" in held
    }
    shapes = _shapes(directory)
    if embedding := next((name for name in shapes if "embed" in name), None):
        shapes.setdefault("lm_head.weight", shapes[embedding])  # not on disk where it is tied
    unknown = [layer for layer in kinds if f"{layer}.weight" not in shapes]
    wrong = unknown or [
        fault for layer, held in kinds.items() for fault in faults(layer, held, shapes, ranks.get(layer, 0))
    ]
    if wrong:
        what = "has no layers for these tensors" if unknown else "is another"
        raise UsageError(
            f"The base {what}: {some(wrong)}.",
            where=str(directory),
            fix="Name the model that the checkpoint was trained on with --base.",
        )
    common = Counter(ranks.values()).most_common(1)[0][0]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(directory),
        "r": common,
        "lora_alpha": alpha,
        "lora_dropout": method.get("dropout", 0.0),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": method.get("rslora", False),
        "use_dora": any("lora_magnitude_vector" in held for held in kinds.values()),
    }
    saved = set(kinds) - set(ranks)
    layers = {layer_of(name) for name in shapes if name.endswith(".weight")}
    return config_for(config, ranks, dict.fromkeys(ranks, alpha), saved, layers), max(ranks.values())


def _write_adapter(tensors: Tensors, config: dict[str, Any], base: Path, work: Path) -> None:
    """Write an adapter of the base's layers, under transformers' names of them."""
    from safetensors.torch import save_file

    published = read_layout(base, Options())
    with TemporaryDirectory(dir=work) as folder:
        as_trained, native = Path(folder) / "as_trained", Path(folder) / "native"
        as_trained.mkdir()
        save_file(tensors, as_trained / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(as_trained / "adapter_config.json", config)
        if published is not None and published.weights:
            convert_adapter(as_trained, native, base=base, layout="native")
        else:
            native = as_trained
        for file in native.iterdir():
            shutil.move(file, work / file.name)


def _write_model(tensors: Tensors, base: Path, work: Path, checkpoint: Path) -> None:
    """Write a whole model in its base's layout, its tensors in the base's types."""
    from huggingface_hub import save_torch_state_dict

    expected = read_weights(base).without_data()
    shapes, layout = _shapes(base), read_layout(base, Options())
    made = [*(layout.ignored if layout else ()), r"\brotary_emb\.inv_freq$"]  # by the model itself
    tensors = {
        name: tensor
        for name, tensor in tensors.items()
        if name in shapes or not any(re.search(pattern, name) for pattern in made)
    }
    if "lm_head.weight" not in shapes and read_config(base).get("tie_word_embeddings", True):
        tensors.pop("lm_head.weight", None)
    missing = [
        name
        for name in shapes
        if name not in tensors and not any(re.search(pattern, name) for pattern in made)
    ]
    unexpected = [name for name in tensors if name not in shapes]
    other = [name for name in tensors if name in shapes and tuple(tensors[name].shape) != shapes[name]]
    for names, what in (
        (missing, "lacks tensors of the base"),
        (unexpected, "has tensors that the base has not"),
        (other, "has tensors of other shapes than the base"),
    ):
        if names:
            raise UsageError(
                f"The checkpoint {what}: {some(names)}.",
                where=str(checkpoint),
                fix="Name the model that it was trained from with --base.",
            )
    typed = {
        name: tensor.detach().to(expected[name].dtype, copy=True)  # ZeRO's are parts of one long one
        for name, tensor in tensors.items()
    }
    save_torch_state_dict(typed, work, max_shard_size=SHARD, metadata={"format": "pt"})
    for file in (base / "config.json", *base.glob("*.py")):
        shutil.copyfile(file, work / file.name)
