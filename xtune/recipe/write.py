"""A Recipe as a recipe file: flat, without bases or imports, to read, edit and run."""

from __future__ import annotations

import re
from typing import Any

from xtune.recipe.schema import Recipe, Section

WIDTH = 110


def recipe_source(recipe: Recipe, *, resolved: bool = False, docstring: str = "") -> str:
    """Python source that `load_recipe` reads back to an equal recipe.

    resolved    state every value; otherwise only what is required or differs from its default
    docstring   one line that says what the recipe is for
    """
    blocks = [f'"""{docstring}"""\n'] if docstring else []
    blocks.append(f"name = {_literal(recipe.name)}")
    for section_name in type(recipe).model_fields:
        section = getattr(recipe, section_name)
        if isinstance(section, Section) and (resolved or _stated(section, resolved)):
            blocks.append(f"{section_name} = {_dict(section, resolved, 0)}")
    return "\n".join(blocks) + "\n"


def _stated(section: Section, resolved: bool) -> list[str]:
    return [
        name
        for name, field in type(section).model_fields.items()
        if resolved or field.is_required() or getattr(section, name) != field.default
    ]


def _dict(section: Section, resolved: bool, depth: int) -> str:
    """`dict(...)` with an option a line, each with what it means where there is room."""
    indent = "    " * (depth + 1)
    lines = []
    for name in _stated(section, resolved):
        value = getattr(section, name)
        before, _, after = f"{indent}{name}={_value(value, resolved, depth + 1)},".partition("\n")
        description = type(section).model_fields[name].description or ""
        lines.append(f"{before}{_comment(description, WIDTH - len(before))}\n{after}".rstrip("\n"))
    return "\n".join(["dict(", *lines, "    " * depth + ")"])


def _value(value: Any, resolved: bool, depth: int) -> str:
    if isinstance(value, Section):
        return _dict(value, resolved, depth)
    if not isinstance(value, list):
        return _literal(value)
    items = [_value(item, resolved, depth + 1) for item in value]
    line = f"[{', '.join(items)}]"
    if len(line) <= WIDTH // 2 and "\n" not in line:
        return line
    indent = "    " * depth
    return "\n".join(["[", *(f"{indent}    {item}," for item in items), f"{indent}]"])


def _literal(value: Any) -> str:
    text = repr(value)
    if isinstance(value, str) and text[0] == "'" and '"' not in value:
        return f'"{text[1:-1]}"'
    if isinstance(value, float):  # 3 for 3.0, 5e-5 for 5e-05
        return re.sub(r"e([+-])0", r"e\1", text).removesuffix(".0")
    return text


def _comment(description: str, room: int) -> str:
    """As many whole clauses of the description as there is room for."""
    text = " ".join(description.split()).rstrip(".")
    while len(text) + 4 > room:
        ends = [[m.start() for m in re.finditer(mark, text)] for mark in (r"\. (?=[A-Z])", "; ", ": ")]
        text = text[: next((found[-1] for found in ends if found), 0)]
        if not text:
            return ""
    return f"  # {text}" if text else ""
