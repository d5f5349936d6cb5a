"""Which chat template a model is used with, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.families import find_family, read_config
from xtune.families.tokenizer import ADDED
from xtune.json_file import read_json_if_there
from xtune.templates.compare import Difference, differences
from xtune.templates.template import (
    Template,
    find_template,
    template_from_source,
    template_names,
    with_added_tokens,
    with_variables,
)


@dataclass(frozen=True)
class Choice:
    """A chat template, and why it is this one.

    template      with its variables set
    why           for people
    differences   between what the checkpoint's own template writes and what this one does
    """

    template: Template
    why: str
    differences: tuple[Difference, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.template.name} ({self.why})"]
        if self.differences:
            lines.append("         The checkpoint's own template writes something else:")
            lines += [f"         {line}" for line in str(self.differences[0]).splitlines()]
        return "\n".join(lines)


def choose_template(
    name: str,
    directory: Path,
    *,
    family: str = "auto",
    variables: Mapping[str, Any] | None = None,
    added_tokens: Iterable[str] = (),
) -> Choice:
    """The template that `model.template` names. For "auto": the checkpoint's own if it says what is learnt
    ({% generation %}); else the family's; else the one of ours that writes the same as the checkpoint's own.

    added_tokens    those of `model.added_tokens`, which a template from outside may write

    Raises UsageError where none can be found, or it has no such variables.
    """
    choice = _choose(name, directory, family)
    template = with_added_tokens(choice.template, added_tokens)
    return replace(choice, template=with_variables(template, variables) if variables else template)


def _choose(name: str, directory: Path, family: str) -> Choice:
    own = own_template(directory)
    if name != "auto":
        template = find_template(name)
        return Choice(template, "named in the recipe", _differences(own, template))
    if own and own.stop_tokens:  # it has {% generation %} blocks
        return Choice(own, "the checkpoint's own, which says what is learnt")
    found = find_family(directory, family)
    known = found.template(read_config(directory), directory)
    if known:
        template = find_template(known)
        different = _differences(own, template)
        if not different:
            return Choice(
                template, f"the family's ({found.name})" + (", equal to the checkpoint's own" if own else "")
            )
    same = next(
        (other for other in template_names() if own and not _differences(own, find_template(other))), None
    )
    if same:
        return Choice(find_template(same), "writes the same as the checkpoint's own")
    if known:
        return Choice(template, f"the family's ({found.name})", different)
    problem = "has no {% generation %} block, so what to learn is unknown" if own else "is missing"
    raise UsageError(
        f"The checkpoint's own chat template {problem}.",
        where=f"{directory} (model.template)",
        fix='Name a template in the recipe: model.template = "chatml", or a path to a .jinja file.',
    )


def own_template(directory: Path) -> Template | None:
    """The template that the checkpoint brings along."""
    settings = read_json_if_there(directory / "tokenizer_config.json")
    file = directory / "chat_template.jinja"
    source = file.read_text(encoding="utf-8") if file.is_file() else settings.get("chat_template")
    if not isinstance(source, str):
        return None
    tokens = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := settings.get(name))
    }
    template = template_from_source("the checkpoint's own", source, tokens)
    return with_added_tokens(template, settings.get(ADDED, ()))


def _differences(own: Template | None, ours: Template) -> tuple[Difference, ...]:
    return tuple(differences(own, ours)) if own else ()
