"""Which line of which file states a value of a recipe, read from the syntax tree without running anything.

Reading also finds the faults that would keep the recipe from running: syntax errors, missing base files and
what mmengine does not allow. A value written in a way that is not followed here (a loop, a function call)
has the line of the nearest enclosing value that is.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass

from xtune.recipe.faults import Fault, Key, Place, did_you_mean

COPY_HINT = "`xtune recipes copy NAME` writes a shipped recipe as one file without bases"


@dataclass(frozen=True)
class Stated:
    """A value as it is written. `value` is None where a section is only updated, or set by an override."""

    place: Place
    value: ast.expr | None = None


Statements = dict[Key, Stated]


@dataclass(frozen=True)
class Written:
    """What the files of a recipe state: the recipe first among `files`, then its bases."""

    files: tuple[str, ...]
    stated: Statements
    faults: tuple[Fault, ...]

    def place(self, key: Key) -> Place | None:
        """Where the value is written, or the nearest section or list that holds it."""
        heads = (key[:n] for n in range(len(key), 0, -1))
        return next((self.stated[head].place for head in heads if head in self.stated), None)


def read_written(file: str) -> Written:
    """Read a recipe file and, recursively, its bases."""
    files: list[str] = []
    faults: list[Fault] = []
    stated = _read(file, None, (), files, faults)
    return Written(tuple(dict.fromkeys(files)), stated, tuple(dict.fromkeys(faults)))


def _read(file: str, named: Place | None, within: tuple[str, ...], files: list, faults: list) -> Statements:
    """`named` is the line that names this file as a base; `within` the files that led here."""
    if os.path.normpath(file) in within:
        faults.append(Fault("base files name each other in a circle", place=named))
        return {}
    files.append(file)
    tree = _parse(file, faults)
    stated: Statements = {}
    blocks = 0
    for statement in _statements(tree.body):
        if isinstance(statement, ast.With):
            blocks += _is_read_base(statement)
            if not _is_read_base(statement):
                faults.append(_fault(file, statement, "the only `with` of a recipe is `with read_base():`"))
            elif blocks > 1:
                faults.append(_fault(file, statement, "a second `with read_base():`; name all bases in one"))
            else:
                for node in statement.body:
                    _read_base(node, file, within, files, faults, stated)
        elif isinstance(statement, ast.ImportFrom) and (statement.level or statement.names[0].name == "*"):
            text = "a base file is imported in the block `with read_base():`"
            faults.append(_fault(file, statement, text))
        else:
            _follow(statement, file, stated)
    return stated


def _parse(file: str, faults: list[Fault]) -> ast.Module:
    try:
        with open(file, encoding="utf-8") as stream:
            return ast.parse(stream.read(), file)
    except SyntaxError as error:
        faults.append(Fault(f"not valid Python: {error.msg}", place=Place(file, error.lineno or 0)))
    except UnicodeDecodeError as error:
        faults.append(Fault(f"not UTF-8 text: byte {error.start} is not valid", place=Place(file)))
    except (OSError, ValueError) as error:  # ValueError: null bytes
        faults.append(Fault(f"cannot be read: {error}", place=Place(file)))
    return ast.Module([], [])


def _read_base(
    node: ast.stmt, file: str, within: tuple[str, ...], files: list, faults: list, stated: Statements
) -> None:
    """Take over what `from .base import *` brings into the recipe."""
    if isinstance(node, ast.Pass):
        return
    if not isinstance(node, ast.ImportFrom) or not node.module:
        faults.append(_fault(file, node, "here stand only lines like `from ._base_.models.smollm2 import *`"))
        return
    if not node.level:
        text = f"base {node.module} must be relative to this file, as in `from .base import *`; {COPY_HINT}"
        faults.append(_fault(file, node, text))
        return
    # Joined as mmengine does, so that the names in tracebacks are among `files`.
    folder = os.path.join(os.path.dirname(file), *[".."] * (node.level - 1))
    base = os.path.join(folder, node.module.replace(".", "/") + ".py")
    if not os.path.isfile(base):
        folder, stem = os.path.dirname(base), os.path.basename(base)[:-3]
        there = [n[:-3] for n in os.listdir(folder) if n.endswith(".py")] if os.path.isdir(folder) else []
        text = f"there is no base file {os.path.normpath(base)}{did_you_mean(stem, there)}"
        faults.append(_fault(file, node, text))
        return
    brought = _read(base, Place(file, node.lineno), (*within, os.path.normpath(file)), files, faults)
    for alias in node.names:
        if alias.name == "*":
            for name in {key[0] for key in brought}:
                _copy(brought, (name,), stated, (name,))
        else:
            _copy(brought, (alias.name,), stated, (alias.asname or alias.name,))


def _is_read_base(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_base"


def _fault(file: str, node: ast.stmt, text: str) -> Fault:
    return Fault(text, place=Place(file, node.lineno))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order, those inside if, for, while and try included."""
    for node in body:
        if isinstance(node, ast.If | ast.For | ast.While | ast.Try):
            for part in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, part, []))
        else:
            yield node


def _follow(node: ast.stmt, file: str, stated: Statements) -> None:
    """Note what `x = ...`, `x.y = ...`, `x["y"] = ...` and `x.update(...)` state."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            _note(_key(target), node.value, node.lineno, file, stated)
    elif isinstance(node, ast.AnnAssign) and node.value:
        _note(_key(node.target), node.value, node.lineno, file, stated)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if isinstance(call.func, ast.Attribute) and call.func.attr == "update" and _key(call.func.value):
            key = _key(call.func.value)
            stated.setdefault(key, Stated(Place(file, node.lineno)))
            for name, value, line in [*_keywords(call), *(c for arg in call.args for c in _children(arg))]:
                _note((*key, name), value, line, file, stated, merged=bool(_children(value)))


def _key(node: ast.expr) -> Key:
    """The key that an assignment's target names; () where it is not a constant one."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute) and _key(node.value):
        return (*_key(node.value), node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and _key(node.value):
        return (*_key(node.value), node.slice.value)
    return ()


def _note(key: Key, value: ast.expr, line: int, file: str, stated: Statements, merged: bool = False) -> None:
    if not key:
        return
    if isinstance(value, ast.Name):
        _copy(stated, (value.id,), stated, key)
    elif not merged:
        _forget(stated, key)
    stated[key] = Stated(Place(file, line), value)
    for name, child, child_line in _children(value):
        _note((*key, name), child, child_line, file, stated, merged)


def _children(node: ast.expr) -> list[tuple[str | int, ast.expr, int]]:
    """Name or index, value and line of what stands in a dict(...), a {...} or a list."""
    if is_dict_call(node):
        return _keywords(node)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return [(k.value, v, k.lineno) for k, v in pairs if isinstance(k, ast.Constant)]
    if isinstance(node, ast.List | ast.Tuple):
        return [(index, item, item.lineno) for index, item in enumerate(node.elts)]
    return []


def _keywords(call: ast.Call) -> list[tuple[str | int, ast.expr, int]]:
    return [(k.arg, k.value, k.lineno) for k in call.keywords if k.arg]


def is_dict_call(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"


def _copy(source: Statements, key: Key, target: Statements, new_key: Key) -> None:
    """What is known of `key` in one file is known of `new_key` in another."""
    found = {(*new_key, *k[len(key) :]): s for k, s in source.items() if k[: len(key)] == key}
    _forget(target, new_key)
    target.update(found)


def _forget(stated: Statements, key: Key) -> None:
    """Drop what is known of a value that another replaces."""
    for old in [k for k in stated if k[: len(key)] == key]:
        del stated[old]
