"""From a config of XTuner 0.1 to a recipe that says the same, and a list of what it does not say."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.recipe.check import check
from xtune.recipe.faults import recipe_error
from xtune.recipe.legacy.data import import_datasets
from xtune.recipe.legacy.model import import_model, read_at
from xtune.recipe.legacy.old_config import SECTIONS, OldConfig, last_name
from xtune.recipe.legacy.shipped import shipped_parts
from xtune.recipe.legacy.trainer import without_trainer
from xtune.recipe.legacy.training import import_hooks, import_training
from xtune.recipe.lines import Written
from xtune.recipe.load import read_config_file
from xtune.recipe.write import WIDTH, recipe_source

WITHOUT_COUNTERPART = ("cohere_chat", "deepseek_coder", "deepseekcoder", "default", "minicpm", "moss_sft")
"""XTuner's PROMPT_TEMPLATEs that xtune does not have."""


@dataclass(frozen=True)
class ImportedRecipe:
    """A recipe made of an old config.

    source   the text of its file
    notes    values that it has not, or not as they were
    """

    source: str
    notes: tuple[str, ...]


def import_recipe(file: str | Path) -> ImportedRecipe:
    """The recipe that says what an XTuner 0.1 config says. Runs the file, but imports nothing of XTuner.

    Raises RecipeError for a file that does not run, and UsageError for what xtune cannot train.
    """
    values = read_config_file(file)
    if not isinstance(values.get("model"), dict) or "type" not in values["model"]:
        raise UsageError(
            f"{file} is no config of XTuner 0.1: it has no model = dict(type=...).",
            fix="A recipe of xtune's needs no importing; XTuner 1's configs have other contents.",
        )
    if "training_args" in values:
        values = without_trainer(values)
    old = OldConfig({name: values[name] for name in SECTIONS if name in values})
    try:
        raw = recipe_of(old)
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"A value in {file} is not what XTuner has there: {error}.", fix="Try the config with XTuner."
        ) from error
    raw["name"] = Path(file).stem
    recipe, faults = check(raw, Written((str(file),), {}, ()))
    if recipe is None:
        raise recipe_error(file, faults)
    old.note_what_is_left()
    source = recipe_source(recipe, docstring=f"Imported from XTuner's config {Path(file).name}.")
    return ImportedRecipe(source + _comment(old.notes), tuple(old.notes))


def recipe_of(old: OldConfig) -> dict[str, Any]:
    """The sections of a recipe, as plain values; what is taken over is taken out of `old`."""
    sections = import_model(old.part("model"))
    objective = sections.pop("objective")
    loader = old.part("train_dataloader")
    found = import_datasets(loader)
    train = import_training(old, found)
    if "gradient_checkpointing" in sections["model"]:
        train["gradient_checkpointing"] = sections["model"].pop("gradient_checkpointing")
    tokenizer = old.part("tokenizer")
    path = tokenizer.take("pretrained_model_name_or_path")
    if path not in (None, sections["model"]["path"]):
        tokenizer.note("pretrained_model_name_or_path", path, "the tokenizer is the model's own")
    _template(loader, found.templates, sections["model"])
    formats = {source["format"] for source in found.sources}
    if objective:
        if found.read_at is not None and objective["kind"] == "reward":
            objective.setdefault("read_at", read_at(loader.part("dataset"), found.read_at))
        train["objective"] = {name: value for name, value in objective.items() if value is not None}
    elif formats == {"text"}:
        train["objective"] = "pretrain"
    elif "text" in formats:
        loader.note("dataset", "pretrain_map_fn", "documents and conversations are not learnt in one run")
    data = {"sources": found.sources, "max_length": max(found.lengths)}
    if train.pop("group_by_length", False):
        data |= {"packing": False, "group_by_length": True}
    probe = import_hooks(old, formats)
    asked = probe.get("prompts") and (objective or {}).get("kind") != "reward"
    return {**sections, "data": data, "train": train, **({"probe": probe} if asked else {})}


def _template(loader: OldConfig, templates: list[Any], model: dict[str, Any]) -> None:
    """Put the template into `model`, where xtune has it."""
    named = [template for template in templates if template]
    template, path = named[0] if named else None, model["path"]
    for other in named[1:]:
        if other != template:
            loader.note("dataset.template_map_fn", other, f"a model has one template, here {template}")
    if template == "qwen_chat" and re.search(r"qwen\D?(1\.5|[2-9])", path, re.IGNORECASE):
        template = None  # XTuner has one for all of Qwen
    elif isinstance(template, str) and template not in WITHOUT_COUNTERPART:
        model["template"] = template
        return
    # Base models have no template of their own.
    shipped = next((part["model"] for part in shipped_parts("models") if part["model"]["path"] == path), {})
    model |= {"template": shipped["template"]} if "template" in shipped else {}
    if template is not None:
        named_here = shipped.get("template", "the model's own, if it has one; else name one")
        text = f"model.template takes its place ({named_here})"
        loader.note("dataset.template_map_fn", f"PROMPT_TEMPLATE.{template}", text)


def _comment(notes: list[str]) -> str:
    if not notes:
        return ""
    lines = [textwrap.fill(note, WIDTH, initial_indent="# - ", subsequent_indent="#   ") for note in notes]
    return "\n".join(["\n# Not in this recipe, or not as it was:", *lines]) + "\n"


def template_named(values: Any) -> str | None:
    """XTuner's name of the chat template that a config's datasets or hooks have; it may be WITHOUT_COUNTERPART."""
    if isinstance(values, dict):
        for key in ("template", "prompt_template"):
            if isinstance(named := values.get(key), str) and "PROMPT_TEMPLATE." in named:
                return last_name(named)
        values = list(values.values())
    inner = values if isinstance(values, list) else ()
    return next((found for value in inner if (found := template_named(value))), None)
