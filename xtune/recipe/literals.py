"""The sections of a recipe that does not run, as far as they are written in plain values."""

from __future__ import annotations

import ast
from typing import Any

from xtune.recipe.lines import Statements, is_dict_call


def literal_sections(stated: Statements) -> dict[str, Any]:
    """Sections by name; what is computed (a call, a name, an f-string) is left out."""
    sections: dict[str, Any] = {}
    public = [key for key in stated if not str(key[0]).startswith("_")]
    for key in sorted(public, key=len):  # what holds a value comes before it
        holder: Any = sections
        for part in key[:-1]:
            if isinstance(holder, dict):
                holder = holder.setdefault(part, {})
            else:
                inside = isinstance(holder, list) and isinstance(part, int) and part < len(holder)
                holder = holder[part] if inside else None
        try:
            value = _literal(stated[key].value)
        except (ValueError, TypeError):
            continue
        if isinstance(holder, dict):
            holder[key[-1]] = value
        elif isinstance(holder, list) and key[-1] == len(holder):
            holder.append(value)
    return sections


def _literal(node: ast.expr | None) -> Any:
    """The value; of a dict or a list an empty one, as what it holds is stated by itself."""
    if node is None or isinstance(node, ast.Dict) or is_dict_call(node):
        return {}
    if isinstance(node, ast.List | ast.Tuple):
        return []
    return ast.literal_eval(node)
