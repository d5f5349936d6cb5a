"""Every fault of a recipe's values at once, and the Recipe where there is none.

Pydantic stops early: it looks at options that must agree only once each is valid alone, and at a method's
options only once its kind is known. So what is faulty is noted and taken out, and the rest looked at again.
"""

from __future__ import annotations

import difflib
import os
from typing import Any, get_args

from pydantic import ValidationError

from xtune.recipe.describe import allowed, field_at, kinds, section_at
from xtune.recipe.faults import Fault, Key, did_you_mean, dotted
from xtune.recipe.lines import Written
from xtune.recipe.schema import Recipe

MISSING = "missing"
EXAMPLES = {
    "model": 'model = dict(path="smollm2")',
    "method": 'method = dict(kind="lora")',
    "data": 'data = dict(sources=[dict(path="train.jsonl")])',
}


def check(
    raw: dict[str, Any], written: Written, *, incomplete: bool = False
) -> tuple[Recipe | None, list[Fault]]:
    """The recipe that `raw` (sections by name) states, or None and all that is wrong with it.

    incomplete   `raw` is known in part only: nothing in it is reported as missing
    """
    texts: dict[Key, str] = {}
    trial = plain(raw)
    while True:
        try:
            recipe = Recipe.model_validate(trial)
            break
        except ValidationError as error:
            before = len(texts)
            errors = error.errors(include_url=False)
            for key, each in [(_key(each, trial), each) for each in errors]:  # keys before `trial` changes
                _note(key, each, trial, texts)
            if len(texts) == before:
                break
    if not texts:
        return recipe, []
    told = {k: text for k, text in texts.items() if not (incomplete and text.startswith(MISSING))}
    return None, [Fault(text, key, written.place(key)) for key, text in told.items()]


def plain(value: Any) -> Any:
    """A copy in plain dicts, lists and strings. (deepcopy fails on some of what a recipe file may hold.)"""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _note(key: Key, error: dict[str, Any], trial: dict, texts: dict[Key, str]) -> None:
    """Write down one of pydantic's errors and take its cause out of `trial`."""
    kind, context = error["type"], error.get("ctx", {})
    if kind.startswith("union_tag"):
        section = trial
        for step in key[:-1]:
            section = section[step]
        names = kinds(key)
        if isinstance(section[key[-1]], str):  # an objective by its name alone
            section[key[-1]] = {"kind": section[key[-1]]}
        section, key = section[key[-1]], (*key, "kind")
        if key not in texts:
            given = section.get("kind")
            texts[key] = _bad_value(key, given, trial) if "kind" in section else _missing(key, trial)
            near = difflib.get_close_matches(str(given), names, n=1)
            fullest = max(names, key=lambda name: len(names[name].model_fields))
            section["kind"] = near[0] if near else fullest
        return
    if kind == "conflict":
        options = context["options"]
        if not any(_known((*key, option), texts) for option in options):  # a default may stand in for it
            texts[(*key, options[0])] = context["message"]
        for option in options:
            _take_out(trial, (*key, option))
        return
    if _known(key, texts):
        return
    if kind == "extra_forbidden":
        texts[key] = _unknown(key, trial)
    elif kind == "missing":
        texts[key] = _missing(key, trial)
    elif kind == "invalid_key":
        texts[key] = f"{error['input']!r} is not the name of an option"
    elif kind in ("value_error", "assertion_error"):
        texts[key] = error["msg"].split(", ", 1)[-1]
    else:
        texts[key] = _bad_value(key, error["input"], trial)
    _take_out(trial, key)


def _key(error: dict[str, Any], trial: dict) -> Key:
    """Where the error is, without the steps that pydantic adds for the branches of a union."""
    key, value = (), trial
    if not error["loc"]:  # of the recipe as a whole
        return key
    *steps, last = error["loc"]
    for step in steps:
        if _holds(value, step):
            key, value = (*key, step), value[step]
    return (*key, last) if error["type"] == "missing" or _holds(value, last) else key


def _holds(value: Any, step: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


def _known(key: Key, texts: dict[Key, str]) -> bool:
    return any(key[:n] in texts for n in range(1, len(key) + 1))


def _take_out(trial: Any, key: Key) -> None:
    for step in key[:-1]:
        if not _holds(trial, step):
            return
        trial = trial[step]
    if isinstance(trial, dict):  # taking out an item of a list would move the others
        trial.pop(key[-1], None)


def _missing(key: Key, raw: dict) -> str:
    if dotted(key) in EXAMPLES:
        return f"{MISSING}; write for example {EXAMPLES[dotted(key)]}"
    return f"{MISSING}; give {allowed(key, raw)}"


def _unknown(key: Key, raw: dict) -> str:
    *parents, name = key
    section = section_at(tuple(parents), raw)
    names = list(section.model_fields) if section else []
    homes = [s for s in Recipe.model_fields if name in getattr(section_at((s,), raw), "model_fields", ())]
    hint = did_you_mean(name, names)
    what = "section" if not parents else "option"
    if section and kinds(tuple(parents)):
        what = f'option of kind "{get_args(section.model_fields["kind"].annotation)[0]}"'
    if not hint and homes and homes != parents:
        hint = f"; it is an option of {homes[0]}"
    if not hint:
        hint = f"; {what.split()[0]}s are {', '.join(names)}"
        if not parents:
            hint += " (begin the name of a helper with _)"
    return f"unknown {what}{hint}"


def _bad_value(key: Key, value: Any, raw: dict) -> str:
    if callable(value) and (key[-1] == "format" or "rewards" in key):
        return "a function must stand in the recipe or a file of its own, by `def` and not inside another one"
    given = repr(value)
    given = given if len(given) <= 60 else f"{given[:57]}..."
    near = ""
    if isinstance(value, str):
        field = field_at(key, raw)
        of_kind = kinds(key[:-1]) if key[-1] == "kind" else ()
        options = of_kind or _literals(field.annotation if field else None)
        near = did_you_mean(value, options)
    return f"{given} is not allowed; give {allowed(key, raw)}{near}"


def _literals(annotation: Any) -> list[str]:
    return [a for a in getattr(annotation, "__args__", ()) if isinstance(a, str)]
