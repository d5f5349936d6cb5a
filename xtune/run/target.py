"""What the user points at to chat with or convert: a run, an adapter, a model directory, an embedded model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.families import read_config, was_named
from xtune.families.choose_template import choose_template, own_template
from xtune.families.embedded import EMBEDDED, model_directory
from xtune.families.family import Options
from xtune.families.reward import is_reward_config
from xtune.json_file import read_json, read_json_if_there
from xtune.model.adapters import is_reward_adapter
from xtune.model.fingerprint import fingerprint
from xtune.recipe.schema import RopeScaling
from xtune.run.directory import Run, is_run
from xtune.templates.template import Template, find_template, template_names, with_variables

NOTE = "xtune.json"


@dataclass(frozen=True)
class Target:
    """A base model and, where there is one, the adapter on it.

    base        the base as a recipe names it: a path, or an embedded model's name
    adapter     directory of the adapter; None for a model of its own
    template    the chat template it was trained with
    options     of the base's family, as it was trained with
    reward      whether it is a reward model, which scores answers instead of writing them
    read_at     then: the token (or its id) at which its scores are read; None for the last of a text
    bits        4 or 8 where the adapter was trained beside quantised weights
    """

    base: str
    adapter: Path | None
    template: Template
    options: Options = Options()  # noqa: RUF009 (frozen)
    reward: bool = False
    read_at: str | int | None = None
    bits: int | None = None

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer lies: beside the adapter, which may have brought tokens, else with the base."""
        if self.adapter and (self.adapter / "tokenizer_config.json").is_file():
            return str(self.adapter)
        return self.base


def find_target(path: str, *, base: str | None = None) -> Target:
    """What `path` is. Raises UsageError where it is nothing that holds a model, or the run has no result.

    base    where an adapter's base model is, instead of where the adapter says
    """
    if path in EMBEDDED:
        return Target(path, None, choose_template("auto", model_directory(path)).template)
    directory = model_directory(path)  # of the hub, if it is a name there
    if is_run(directory):
        result = Run(directory).result
        if result is None:
            raise UsageError(
                "This run has not finished: it holds no adapter and no model yet.",
                where=path,
                fix=f"xtune train --resume {path}",
            )
        directory = result
    if (directory / "adapter_config.json").is_file():
        note = read_note(directory)
        base = (
            base
            or note.get("base")
            or read_json(directory / "adapter_config.json").get("base_model_name_or_path")
        )
        if base not in EMBEDDED and not (base and model_directory(base).is_dir()):
            raise UsageError(
                f"The base model of this adapter is not at {base}."
                if base
                else "This adapter names no base model.",
                where=str(directory),
                fix=f"Say where it is: xtune chat BASE --adapter {path}, or xtune convert merge {path} OUT --base BASE",
            )
        trained_with = _trained_with(directory, note, model_directory(base))
        reward = is_reward_adapter(directory)
        bits = note["bits"] if note.get("bits") in (4, 8) else None
        return Target(base, directory, *trained_with, reward, note.get("read_at"), bits)
    if (directory / "config.json").is_file():
        trained_with = _trained_with(directory, read_note(directory), directory)
        reward = is_reward_config(read_config(directory))
        return Target(str(directory), None, *trained_with, reward, scores_read_at(directory))
    raise UsageError(
        f"{path} is neither a run, an adapter nor a model.",
        where=str(directory),
        fix="Name a run directory, a directory with adapter_config.json or config.json, or smollm2.",
    )


def check_base(target: Target) -> None:
    """Refuse an adapter on a base that it was not trained on. Adapters from elsewhere say nothing of theirs."""
    expected = read_note(target.adapter).get("base_fingerprint") if target.adapter else None
    if expected and fingerprint(model_directory(target.base)) != expected:
        raise UsageError(
            "The base model is not the one this adapter was trained on: its weights differ.",
            where=f"{target.base} (base of {target.adapter})",
            fix="Name the model it was trained on, or put that one back where it was.",
        )


def write_note(
    directory: Path,
    *,
    base: str | None,
    template: Template,
    options: Options = Options(),  # noqa: B008 (frozen)
    read_at: str | int | None = None,
    bits: int | None = None,
) -> None:
    """Leave beside a result what PEFT and Transformers have no place for: base, its fingerprint, template …"""
    if base is None:  # a whole model: its own config.json has the scaling
        options = replace(options, rope_scaling=None)
    note: dict[str, Any] = {"template": template.name}
    if template.variables:
        note["template_variables"] = dict(template.variables)
    if chosen := options.chosen():
        note["model_options"] = chosen
    if read_at is not None:
        note["read_at"] = read_at
    if bits is not None:
        note["bits"] = bits
    if base is not None:
        path = model_directory(base)
        elsewhere = (
            base in EMBEDDED or not Path(base).expanduser().exists()
        )  # a name, which any machine knows
        note["base"] = base if elsewhere else str(path.resolve())
        note["base_fingerprint"] = fingerprint(path)
    (directory / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def read_note(directory: Path) -> dict[str, Any]:
    """What write_note left in a directory, {} where it left nothing."""
    return read_json_if_there(directory / NOTE)


def scores_read_at(directory: Path) -> str | int | None:
    """The token (or its id) at which the scores of a reward model are read, None for the last of a text: as its note
    says, or its publisher's config.json."""
    return read_note(directory).get("read_at", read_config(directory).get("reward_token_id"))


def noted_options(note: dict[str, Any], directory: Path) -> Options:
    """The family's options that a directory's note holds. Raises UsageError for unknown ones."""
    values = dict(note.get("model_options", {}))
    family = str(values.get("family", ""))
    if family.endswith(".py") and not was_named(family):
        raise UsageError(
            f"The model needs a program that was not used here before, {family}, and is not opened.",
            where=str(directory / NOTE),
            fix="If you trust that program, say so once, and repeat the command: xtune inspect BASE --family "
            + family,
        )
    try:
        if scaling := values.pop("rope_scaling", None):
            values["rope_scaling"] = RopeScaling(**scaling)
        return Options(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"model_options has what xtune does not know: {error}",
            where=str(directory / NOTE),
            fix="Correct it, or use the xtune that wrote it.",
        ) from None


def _trained_with(directory: Path, note: dict[str, Any], base: Path) -> tuple[Template, Options]:
    """Template and options that the note names; else the Jinja that lies beside the weights; else the base's."""
    options = noted_options(note, directory)
    variables = note.get("template_variables", {})
    if note.get("template") in template_names():
        return with_variables(find_template(note["template"]), variables), options
    if note and (own := own_template(directory)):
        return with_variables(replace(own, name=note["template"]), variables), options
    if directory != base:
        return _trained_with(base, read_note(base), base)[0], options
    return choose_template("auto", base, family=options.family).template, options
