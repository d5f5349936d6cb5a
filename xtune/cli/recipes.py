"""`xtune recipes`: the recipes that come with xtune."""

from __future__ import annotations

import shlex

import click


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the recipes that come with xtune; `show` prints one, `copy` makes one your own."""
    if context.invoked_subcommand:
        return
    from xtune.recipe.catalog import description, shipped_recipes

    shipped = shipped_recipes()
    width = max(map(len, shipped), default=0)
    for name, file in shipped.items():
        click.echo(f"{name:{width}}  {description(file)}")


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
