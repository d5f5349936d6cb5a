"""What the schema allows at a key of a recipe, in words."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from xtune.recipe.faults import Key
from xtune.recipe.schema import Recipe, Section

_WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    type(None): "None",
}
_PLURALS = {str: "strings", int: "whole numbers", float: "numbers"}


def field_at(key: Key, raw: Any = None) -> FieldInfo | None:
    """The schema's field that holds the value at `key`; `raw` is the recipe, to know which kind a section is of."""
    section, field = Recipe, None
    for part in key:
        raw = _get(raw, part)
        if isinstance(part, int):
            continue  # an item of the list that the field holds
        field = section.model_fields.get(part) if section else None
        if field is None:
            return None
        section = _section(field, raw)
    return field


def section_at(key: Key, raw: Any = None) -> type[Section] | None:
    """The schema's section at `key`."""
    field = field_at(key, raw)
    for part in key:
        raw = _get(raw, part)
    return Recipe if not key else field and _section(field, raw)


def kinds(key: Key) -> dict[str, type[Section]]:
    """Of a section that may be of several kinds (method, train.objective): those by name; else none."""
    field = field_at(key)
    found = _sections(field) if field else []
    return {get_args(s.model_fields["kind"].annotation)[0]: s for s in found} if len(found) > 1 else {}


def allowed(key: Key, raw: Any = None) -> str:
    """What may stand at `key`: "a whole number at least 1, or None"."""
    if key[-1] == "kind" and kinds(key[:-1]):
        return one_of(kinds(key[:-1]))
    field = field_at(key, raw)
    if field is None:
        return ""
    if isinstance(key[-1], int):  # the items are what the list holds
        return " or ".join(_words(get_args(a)[0]) for a in _alternatives(field) if get_origin(a) is list)
    words = [_words(a) for a in _alternatives(field)]
    limits = [_limit(bound) for bound in field.metadata if _limit(bound)]
    if not limits:
        return " or ".join(words)
    return ", or ".join([f"{words[0]} {' and '.join(limits)}", *words[1:]])


def one_of(names) -> str:
    *others, last = [f'"{name}"' if isinstance(name, str) else str(name) for name in names]
    return f"{', '.join(others)} or {last}" if others else last


def _alternatives(field: FieldInfo) -> tuple[Any, ...]:
    annotation = field.annotation
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _sections(field: FieldInfo) -> list[type[Section]]:
    return [a for alt in _alternatives(field) for a in (alt, *get_args(alt)) if _is_section(a)]


def _section(field: FieldInfo, raw: Any) -> type[Section] | None:
    """The section that a field holds, alone or in a list. One of an unknown kind is taken for the fullest."""
    found = _sections(field)
    kind = raw if isinstance(raw, str) else _get(raw, "kind")
    for section in found if len(found) > 1 else ():
        if kind in get_args(section.model_fields["kind"].annotation):
            return section
    return max(found, key=lambda section: len(section.model_fields), default=None)


def _words(annotation: Any) -> str:
    if _is_section(annotation):
        required = [n for n, f in annotation.model_fields.items() if f.is_required()]
        return f"dict({', '.join([f'{n}=...' for n in required] or ['...'])})"
    if get_origin(annotation) is Literal:
        return one_of(get_args(annotation))
    if get_origin(annotation) is list:
        item = get_args(annotation)[0]
        return f"a list of {_PLURALS.get(item) or _words(item)}"
    if get_origin(annotation) is dict:
        return "dict(name=...)"
    return _WORDS.get(annotation, str(annotation))


def _limit(bound: Any) -> str:
    names = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    for name, text in names.items():
        if hasattr(bound, name):
            return text.format(getattr(bound, name))
    return "not empty" if getattr(bound, "min_length", 0) else ""


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _get(holder: Any, part: str | int) -> Any:
    try:
        return holder[part]
    except (KeyError, IndexError, TypeError):
        return None
