"""`xtune recipes`: the recipes that come with xtune."""

from __future__ import annotations

import shlex

import click


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the recipes that come with xtune; `show` prints one, `copy` makes one your own."""
    if not context.invoked_subcommand:
        _list(())


@recipes.command("list")
@click.argument("words", nargs=-1)
def list_(words: tuple[str, ...]) -> None:
    """List the recipes with all WORDS in their name, as in `list qwen qlora`."""
    _list(words)


def _list(words: tuple[str, ...]) -> None:
    from xtune.recipe.catalog import recipes_by_folder

    found = recipes_by_folder(words)
    width = max(len(name) for names in found.values() for name in names)
    for folder, names in found.items():
        click.echo(f"{folder}:")
        for name, description in names.items():
            click.echo(f"  {name:{width}}  {description}")


@recipes.command()
@click.argument("name_or_file")
def show(name_or_file: str) -> None:
    """Print a recipe with all its values, defaults included."""
    from xtune.recipe.load import load_recipe
    from xtune.recipe.write import recipe_source

    click.echo(recipe_source(load_recipe(name_or_file), resolved=True), nl=False)


@recipes.command()
@click.argument("name")
@click.argument("directory", default=".")
def copy(name: str, directory: str) -> None:
    """Write a recipe to DIRECTORY/NAME.py, to edit and run, with its data beside it."""
    from xtune.recipe.copy import copy_recipe

    written = copy_recipe(name, directory)
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(f"next: xtune train {shlex.quote(str(written[0]))}")
