"""Values that replace a recipe's: `--set train.lr=1e-4`, or a dict of dotted keys in Python."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from xtune.errors import UsageError
from xtune.recipe.describe import field_at
from xtune.recipe.faults import Fault, Key, Place, dotted

PLACE = Place("override")
_WORDS = {"none": None, "null": None, "true": True, "false": False}


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """["train.lr=1e-4", "probe.prompts=['Hi']"] as a dict; raises UsageError. The last of a key counts."""
    return dict(_parse(text) for text in texts)


def _parse(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise UsageError(f"--set {text} is not an override.", fix="write it as --set train.lr=1e-4")
    return key, _value(value.strip(), split(key))


def _value(text: str, key: Key) -> Any:
    """A Python literal where it is one, else the text itself; name=2024 is text, as the schema wants it."""
    field, value = field_at(key), _python(text)
    annotation = field.annotation if field else None
    if annotation is str or (annotation == str | None and value is not None):
        return value if isinstance(value, str) else text
    return value


def _python(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def split(dotted_key: str) -> Key:
    return tuple(int(part) if part.isdecimal() else part for part in dotted_key.split("."))


def apply_overrides(raw: dict[str, Any], overrides: Mapping[str, Any]) -> list[Fault]:
    """Put the values into `raw`; what has no place there is a fault."""
    return [fault for name, value in overrides.items() if (fault := _apply(raw, split(name), value))]


def _apply(raw: dict[str, Any], key: Key, value: Any) -> Fault | None:
    holder: Any = raw
    for depth, part in enumerate(key):
        here = dotted(key[:depth])
        if isinstance(holder, list):
            if not isinstance(part, int) or part >= len(holder):
                text = f"{here} has {len(holder)} items, numbered from 0; there is no {part}"
                return Fault(text, key, PLACE)
        elif not isinstance(holder, dict):
            return Fault(f"{here} is {holder!r}, which holds no options", key, PLACE)
        elif isinstance(part, int):
            return Fault(f"{here or 'a recipe'} holds options, not numbered items", key, PLACE)
        if depth == len(key) - 1:
            holder[part] = value
        elif isinstance(holder, dict) and part not in holder:
            if isinstance(key[depth + 1], int):
                return Fault(f"there is no {dotted(key[: depth + 1])} to change an item of", key, PLACE)
            holder = holder.setdefault(part, {})
        else:
            holder = holder[part]
    return None
