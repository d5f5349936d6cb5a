"""The recipes that come with xtune, found by name."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from pathlib import Path

import xtune
from xtune.errors import RecipeError, UsageError


def configs_directory() -> Path:
    """Where the shipped recipes are: inside an installed package, beside it in a clone."""
    package = Path(xtune.__file__).parent
    return next(
        (d for d in (package / "configs", package.parent / "configs") if d.is_dir()), package / "configs"
    )


def shipped_recipes() -> dict[str, Path]:
    """File by name, in alphabetic order by folder; what is under _base_ is a part and no recipe."""
    files = configs_directory().glob("[!_]*/*.py")
    return {file.stem: file for file in sorted(files, key=lambda file: (file.parent.name, file.stem))}


def recipes_by_folder(words: Iterable[str] = ()) -> dict[str, dict[str, str]]:
    """Descriptions by name by folder, of the recipes whose folder and name hold all words. Raises UsageError."""
    found: dict[str, dict[str, str]] = {}
    for name, file in shipped_recipes().items():
        if all(word.lower() in f"{file.parent.name}/{name}" for word in words):
            found.setdefault(file.parent.name, {})[name] = description(file)
    if not found:
        raise UsageError(
            f"No shipped recipe has {' and '.join(words)} in its name.", fix="`xtune recipes` lists them all"
        )
    return found


def description(file: Path) -> str:
    """The first line of a recipe's docstring."""
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def shipped_recipe(name: str) -> Path:
    """The file of the shipped recipe of that name. Raises UsageError."""
    shipped = shipped_recipes()
    if name not in shipped:
        raise UsageError(f"There is no shipped recipe {name}.", fix=_suggestion(name, shipped))
    return shipped[name]


def find_recipe(name_or_file: str | Path) -> Path:
    """The recipe file at that path, or the shipped one of that name. Raises RecipeError."""
    file, shipped = Path(name_or_file).expanduser(), shipped_recipes()
    if file.is_file():
        return file
    if str(name_or_file) in shipped:
        return shipped[str(name_or_file)]
    if file.is_dir():
        raise RecipeError(f"{file} is a directory, not a recipe.", fix="name the recipe file in it")
    here = [str(file.with_name(path.name)) for path in file.parent.glob("*.py")] if file.name else []
    raise RecipeError(
        f"There is no recipe file or shipped recipe {name_or_file}.",
        fix=_suggestion(str(file), [*here, *shipped]),
    )


def _suggestion(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]}?" if near else "`xtune recipes` lists the shipped ones"
