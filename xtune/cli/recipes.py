"""`xtune recipes`: the recipes that come with xtune."""

from __future__ import annotations

import shlex

import click

from xtune.cli.command import Group, RecipeName


@click.group(cls=Group, invoke_without_command=True, epilog="Example: xtune recipes copy smollm2_lora mine")
@click.pass_context
def recipes(context: click.Context) -> None:
    """List the recipes that come with xtune; `show` prints one, `copy` makes one your own, `import` makes one of a
    config of XTuner 0.1."""
    if not context.invoked_subcommand:
        _list(())


@recipes.command("list", epilog="Example: xtune recipes list qwen qlora")
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


@recipes.command(epilog="Example: xtune recipes show smollm2_lora")
@click.argument("name_or_file", type=RecipeName())
def show(name_or_file: str) -> None:
    """Print a recipe with all its values, defaults included."""
    from xtune.recipe.load import load_recipe
    from xtune.recipe.write import recipe_source

    click.echo(recipe_source(load_recipe(name_or_file), resolved=True), nl=False)


@recipes.command(epilog="Example: xtune recipes copy smollm2_lora mine")
@click.argument("name", type=RecipeName())
@click.argument("directory", default=".")
def copy(name: str, directory: str) -> None:
    """Write a recipe to DIRECTORY/NAME.py, to edit and run, with its data beside it."""
    from xtune.recipe.copy import copy_recipe

    written = copy_recipe(name, directory)
    for file in written:
        click.echo(f"wrote {file}")
    click.echo(f"next: xtune train {shlex.quote(str(written[0]))}")


@recipes.command("import", epilog="Example: xtune recipes import my_config_e3.py my_recipe.py")
@click.argument("old", type=click.Path(exists=True, dir_okay=False))
@click.argument("out", required=False, type=click.Path())
def import_(old: str, out: str | None) -> None:
    """Write the recipe that says what OLD, a config of XTuner 0.1, says: to OUT, or to stdout.

    What it cannot say is listed, here and at the end of the recipe. OLD is a program: it is run, but what it
    imports of XTuner and other packages is not.
    """
    from pathlib import Path

    from xtune.errors import UsageError
    from xtune.home import write_whole
    from xtune.recipe.legacy.import_config import import_recipe
    from xtune.terminal import messages

    if out and Path(out).exists():
        raise UsageError(f"{out} is already there.", where="OUT", fix="Name another file, or move it away.")
    imported = import_recipe(old)
    if not out:
        click.echo(imported.source, nl=False)
    else:
        try:
            write_whole(Path(out), imported.source)
        except OSError as error:
            raise UsageError(
                f"Cannot write there: {error.strerror}.", where=out, fix="Name another file."
            ) from None
    for note in imported.notes:
        messages().print(f"note: {note}", markup=False, soft_wrap=True)
    if out:
        click.echo(f"wrote {out}")
        click.echo(f"next: xtune train {shlex.quote(out)} --dry-run")
