"""What the commands of xtune are: loaded when they are called, with help that begins with an example."""

from __future__ import annotations

from importlib import import_module

import click
from click.shell_completion import CompletionItem


class Command(click.Command):
    """A command in whose help the epilog, an example, stands first."""

    def format_help(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write(f"{self.epilog}\n\n")
        self.format_usage(context, formatter)
        self.format_help_text(context, formatter)
        self.format_options(context, formatter)


class Group(Command, click.Group):
    """Commands under one name, likewise; listed in the order in which they are used."""

    command_class = Command

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


class LazyCommand(click.Command):
    """Stands for a command in lists and suggestions; becomes the real one when called.

    target   module and name of it, as "xtune.cli.train:train"
    """

    def __init__(self, name: str, target: str, help: str):
        super().__init__(name, help=help, short_help=help)
        self.target = target

    def load(self) -> click.Command:
        """The real command."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)

    def make_context(self, info_name, args, parent=None, **extra):
        return self.load().make_context(info_name, args, parent=parent, **extra)


class RecipeName(click.ParamType):
    """A recipe's file, or the name of one that comes along, which the Tab key completes."""

    name = "recipe"

    def shell_complete(self, context: click.Context, param: click.Parameter, incomplete: str):
        from xtune.recipe.catalog import shipped_recipes

        names = [name for name in shipped_recipes() if name.startswith(incomplete)]
        return [*map(CompletionItem, names), CompletionItem(incomplete, type="file")]
