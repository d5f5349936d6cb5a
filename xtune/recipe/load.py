"""From a recipe file to a Recipe. The one place that uses mmengine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from xtune.errors import RecipeError
from xtune.recipe.catalog import find_recipe
from xtune.recipe.check import check, plain
from xtune.recipe.faults import Fault, Key, Place, did_you_mean, recipe_error
from xtune.recipe.lines import Stated, Written, read_written
from xtune.recipe.literals import literal_sections
from xtune.recipe.online_schema import RewardTerm
from xtune.recipe.overrides import PLACE, apply_overrides, split
from xtune.recipe.schema import ZERO, Recipe


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a file, or the shipped one of that name, complete with all defaults.

    overrides   replace the file's values, by dotted key: {"train.lr": 1e-4, "data.sources.0.path": "x.json"}

    A relative path in the recipe starts at the folder of the file that states it, else at the recipe's, else
    at the current directory: the first where it exists; one in `overrides` at the current directory only.
    Raises RecipeError, which lists all faults of the recipe. Imports neither torch nor transformers.
    """
    file = os.path.abspath(find_recipe(path))
    written = read_written(file)
    raw, faults = (None, written.faults) if written.faults else _run(file, written)
    if raw is None:
        raise recipe_error(file, _with_faults_of_literals(faults, written))
    raw.setdefault("name", Path(file).stem)
    faults = apply_overrides(raw, {name: plain(value) for name, value in (overrides or {}).items()})
    written = _overridden(written, [split(name) for name in overrides or {}])
    _name_functions(raw)
    recipe, more = check(raw, written)
    if recipe is None or faults:
        raise recipe_error(file, [*faults, *more])
    return _with_paths(recipe, written)


def _run(file: str, written: Written) -> tuple[dict[str, Any] | None, list[Fault]]:
    """Run the recipe file: its sections and the other names that look like sections, or None and why not."""
    from mmengine.config import Config

    try:
        config = Config.fromfile(file, lazy_import=True)
        everything, own = config.to_dict(keep_imported=True), config.to_dict()
    except Exception as error:  # whatever the user's code raises
        return None, [_exception_fault(error, written)]
    if {"model", "train_dataloader"} <= own.keys():
        raise RecipeError(
            "This is a config of XTuner 0.1, not a recipe.",
            where=file,
            fix=f"xtune recipes import {file} OUT.py",
        )
    return {
        name: plain(value)
        for name, value in everything.items()
        if name in Recipe.model_fields or (name in own and _looks_like_section(name, value))
    }, []


def read_config_file(path: str | Path) -> dict[str, Any]:
    """All names of an mmengine config that is no recipe, such as XTuner 0.1's, with plain values.

    The file runs, as do its bases and what it imports of the standard library. What it imports of other packages
    does not: in its place stands the name, "torch.optim.AdamW". Raises RecipeError for a file that does not run.
    """
    from mmengine.config import Config

    if not os.path.isfile(path):
        raise RecipeError(f"There is no file {path}.", fix="Check the path.")
    try:
        return plain(Config.fromfile(os.path.abspath(path)).to_dict())
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        fault = _exception_fault(error, Written((os.path.abspath(path),), {}, ()))
        raise recipe_error(path, [fault]) from None


def _name_functions(raw: dict[str, Any]) -> None:
    """Put "/where/file.py:name" in place of each function that is the format of a source, or a reward."""
    rewards = _listed(raw, "train", "objective", "rewards")
    rewards[:] = map(_name_of, rewards)
    for holders, option in ((_listed(raw, "data", "sources"), "format"), (rewards, "function")):
        for holder in holders:
            if isinstance(holder, dict) and option in holder:
                holder[option] = _name_of(holder[option])


def _listed(raw: Any, *key: str) -> list[Any]:
    """The list at `key`, [] where there is none."""
    for part in key:
        raw = raw.get(part) if isinstance(raw, dict) else None
    return raw if isinstance(raw, list) else []


def _name_of(value: Any) -> Any:
    # Lambdas and functions inside others have no name to find them by; a script would run again to find its own.
    if isinstance(value, FunctionType) and value.__qualname__.isidentifier():
        file = os.path.abspath(value.__code__.co_filename)
        if os.path.isfile(file) and value.__module__ != "__main__":
            return f"{file}:{value.__name__}"
    return value


def _with_faults_of_literals(faults: Sequence[Fault], written: Written) -> list[Fault]:
    """Of a recipe that does not run, what is written in plain values can still be checked."""
    _, more = check(literal_sections(written.stated), written, incomplete=True)
    unknown = {fault.key for fault in more}
    return [*(fault for fault in faults if fault.key not in unknown), *more]


def _looks_like_section(name: str, value: Any) -> bool:
    return not (name.startswith("_") or isinstance(value, ModuleType) or callable(value))


def _exception_fault(error: BaseException, written: Written) -> Fault:
    place, placeholder, traceback = None, False, error.__traceback__
    while traceback:
        code = traceback.tb_frame.f_code
        if code.co_filename in written.files:
            place = Place(code.co_filename, traceback.tb_lineno)
        placeholder = code.co_filename == sys.modules["mmengine.config.lazy"].__file__
        traceback = traceback.tb_next
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, NameError) and error.name in Recipe.model_fields:
        text = f"no base file has `{error.name}` to update; write {error.name} = dict(...)"
    elif isinstance(error, NameError) and error.name:
        return Fault("not defined" + did_you_mean(error.name, Recipe.model_fields), (error.name,), place)
    elif isinstance(error, KeyError) and place is None:  # from .base import name
        text = f"no base file defines {error}"
    elif placeholder:
        text = "what a recipe imports is only a name, which cannot be used here (mmengine imports late)"
    elif isinstance(error, AttributeError) and text.startswith("AttributeError: 'dict' object"):
        text += '; a section is a plain dict in the file that begins it: write train["lr"] = ...'
    return Fault(text, place=place or Place(written.files[0]))


def _overridden(written: Written, keys: list[Key]) -> Written:
    """`written` where the values at `keys` come from overrides."""
    kept = {k: s for k, s in written.stated.items() if not any(k[: len(key)] == key for key in keys)}
    begun = [key[:n] for key in keys for n in range(1, len(key))]  # sections that only overrides name
    here = Stated(PLACE)
    return replace(written, stated=dict.fromkeys(begun, here) | kept | dict.fromkeys(keys, here))


def _with_paths(recipe: Recipe, written: Written) -> Recipe:
    """The recipe with relative paths made absolute where something is there."""
    sources = []
    for n, source in enumerate(recipe.data.sources):
        here = ("data", "sources", n)
        found = {"path": _found(source.path, (*here, "path"), written, os.path.exists)}
        found["format"] = _found_function(source.format, (*here, "format"), written)
        sources.append(source.model_copy(update=found))
    data = recipe.data.model_copy(update={"sources": sources})
    found = {"path": _found(recipe.model.path, ("model", "path"), written, _is_model)}
    for option, ending in (("family", ".py"), ("template", ".jinja")):  # else it is a name
        value = getattr(recipe.model, option)
        if value.endswith(ending):
            found[option] = _found(value, ("model", option), written, os.path.isfile)
    model = recipe.model.model_copy(update=found)
    train = recipe.train
    if rewards := getattr(train.objective, "rewards", None):
        found = {"rewards": [_with_paths_of_reward(*each, written) for each in enumerate(rewards)]}
        train = train.model_copy(update={"objective": train.objective.model_copy(update=found)})
    if train.deepspeed and train.deepspeed not in ZERO:
        file = _found(train.deepspeed, ("train", "deepspeed"), written, os.path.isfile)
        train = train.model_copy(update={"deepspeed": file})
    return recipe.model_copy(update={"data": data, "model": model, "train": train})


def _with_paths_of_reward(n: int, reward: RewardTerm, written: Written) -> RewardTerm:
    here = ("train", "objective", "rewards", n)
    if reward.model:
        found = {"model": _found(reward.model, (*here, "model"), written, os.path.isdir)}
    else:
        found = {"function": _found_function(reward.function, (*here, "function"), written)}
    return reward.model_copy(update=found)


def _found_function(reference: str, key: Key, written: Written) -> str:
    """ "file.py:function" with the file found; a name as it is."""
    file, colon, function = reference.rpartition(":")
    return (
        _found(file, key, written, os.path.isfile) + colon + function if file.endswith(".py") else reference
    )


def _found(path: str, key: Key, written: Written, exists: Callable[[str], bool]) -> str:
    """The first place where `path` exists, the likeliest folder first; else `path` itself."""
    if not path:
        return path
    place = written.place(key)
    files = () if place == PLACE else (*([place.file] if place else []), *written.files)
    start = os.path.expanduser(path) if path.startswith("~/") else path
    for folder in (*map(os.path.dirname, files), os.getcwd()):
        candidate = os.path.abspath(os.path.join(folder, start))
        if exists(candidate):
            return path if os.path.isabs(path) else candidate
    return path


def _is_model(directory: str) -> bool:
    """A mere directory is not enough: "smollm2" names a model even where a folder is called so."""
    return os.path.isfile(os.path.join(directory, "config.json"))
