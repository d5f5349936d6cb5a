"""A shipped recipe as a file of the user's own, with the data it needs beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

from xtune.errors import UsageError
from xtune.recipe.catalog import configs_directory, description, shipped_recipe
from xtune.recipe.load import load_recipe
from xtune.recipe.write import recipe_source


def copy_recipe(name: str, directory: str | Path = ".") -> list[Path]:
    """Write the shipped recipe as `directory/name.py` and its packaged data beside it; returns all files.

    Raises UsageError for an unknown name, and before it would overwrite anything.
    """
    file = shipped_recipe(name)
    recipe = load_recipe(file)
    directory = Path(directory)
    target = directory / f"{name}.py"
    packaged = configs_directory().parent.resolve()
    data: dict[Path, Path] = {}
    sources = []
    for source in recipe.data.sources:
        path = Path(source.path)
        if path.is_absolute() and path.resolve().is_relative_to(packaged):  # else it is not there yet
            data[path] = directory / path.name
            source = source.model_copy(update={"path": path.name})
        sources.append(source)
    for source_file, copy in [(None, target), *data.items()]:
        _refuse_overwriting(copy, source_file)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"sources": sources})})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for source_file, copy in data.items():
            shutil.copyfile(source_file, copy)
        target.write_text(recipe_source(recipe, docstring=description(file)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write there: {error}", where=str(directory)) from error
    return [target, *data.values()]


def _refuse_overwriting(target: Path, source: Path | None) -> None:
    """The same data, left by copying another recipe, is no obstacle."""
    if target.exists() and not (source and target.is_file() and target.read_bytes() == source.read_bytes()):
        raise UsageError(f"{target} is already there.", fix="copy to another directory, or move it away")
