"""`xtune data`: what is in data files, before anything is trained on them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import click

from xtune.cli.command import Group, LazyCommand

if TYPE_CHECKING:
    from xtune.families.choose_template import Choice
    from xtune.recipe.schema import Data, Model

_COMMANDS = {
    "check": ("xtune.cli.data_check:check", "Count what is in data files, and all that is wrong with it."),
    "show": ("xtune.cli.data_show:show", "Show samples as the model reads them, and what is learnt of them."),
    "clean": ("xtune.cli.data_clean:clean", "Write data files without duplicates and rows of little worth."),
}


@click.group(
    cls=Group,
    epilog="Example: xtune data check train.jsonl",
    commands={name: LazyCommand(name, *rest) for name, rest in _COMMANDS.items()},
)
def data() -> None:
    """Check, show and clean training data."""


def source_options(command):
    """The options of commands that read data for a model."""
    for option in reversed(
        [
            click.option(
                "--format",
                default="auto",
                metavar="NAME",
                help="How rows are laid out: a name, file.py:function, or auto (default).",
            ),
            click.option("--split", metavar="NAME", help="Which part of a data set that has several."),
            click.option("--encoding", metavar="NAME", help="Of text files that are not UTF-8."),
            click.option("--template", metavar="NAME", help="Chat template. Default: the model's own."),
            click.option("--model", metavar="NAME", help="Whose tokenizer and template. Default: smollm2."),
        ]
    ):
        command = option(command)
    return command


class Selection(NamedTuple):
    """What a command is to look at: sources, and the model that reads them; what of it the command line names."""

    data: Data
    model: Model
    said: dict[str, str]
    objective: str | None

    @property
    def by_default(self) -> bool:
        """Whether nobody has said which model reads the data."""
        return not (self.objective or "path" in self.said)

    @property
    def kinds(self) -> tuple[type, ...] | None:
        """What a recipe's objective learns from; None where there is no recipe: anything."""
        from xtune.data.recognise import KINDS_OF

        return KINDS_OF[self.objective] if self.objective else None

    def template(self) -> Choice:
        """The chat template."""
        from xtune.families.choose_template import choose_template
        from xtune.families.embedded import model_directory

        model = self.model
        choice = choose_template(
            model.template,
            model_directory(model.path),
            family=model.family,
            variables=model.template_variables,
            added_tokens=model.added_tokens,
        )
        if "template" not in self.said:
            return choice
        differences = () if self.by_default else choice.differences
        return replace(choice, why="as named", differences=differences)

    def tokenizer(self):
        """The model's tokenizer."""
        from xtune.families.tokenizer import load_tokenizer
        from xtune.terminal import quiet_libraries

        quiet_libraries()
        model = self.model
        return load_tokenizer(model.path, family=model.family, added_tokens=model.added_tokens)


def select(paths, *, format, split, encoding, template, model) -> Selection:
    """The data that paths name, or a recipe's; options replace what a recipe says of its model."""
    from xtune.recipe.load import load_recipe
    from xtune.recipe.schema import Data, Model, Source

    said = {name: value for name, value in (("path", model), ("template", template)) if value is not None}
    recipes = [path for path in paths if _is_recipe(path)]
    if not recipes:
        sources = [Source(path=path, format=format, split=split, encoding=encoding) for path in paths]
        return Selection(Data(sources=sources), Model(**{"path": "smollm2", **said}), said, None)
    if len(paths) > 1 or format != "auto" or split or encoding:
        raise click.UsageError(
            f"{recipes[0]} is a recipe, which says itself what is read and how; give it alone, without --format, "
            "--split and --encoding."
        )
    recipe = load_recipe(recipes[0], {f"model.{name}": value for name, value in said.items()})
    return Selection(recipe.data, recipe.model, said, recipe.train.objective.kind)


def printable(text: str) -> str:
    """What stands in data may be anything: a terminal would obey some of it."""
    return re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _is_recipe(path: str) -> bool:
    from xtune.recipe.catalog import shipped_recipes

    return path.endswith(".py") or (not os.path.exists(path) and path in shipped_recipes())
