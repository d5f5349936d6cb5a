"""Reads values that Python wrote as text: a table of such a set holds str(list), not JSON. Nothing is evaluated."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Any

from xtune.data.findings import Reject
from xtune.data.mappers.mapper import inner_json

# What Python's parser needs of memory and of stack grows with these; more is no conversation.
MAX_CHARACTERS, MAX_VALUES, MAX_DEPTH = 2_000_000, 100_000, 50

# Texts, split as Python does (three quotes before one), numbers and names of values.
_ATOM = re.compile(
    r"'''(?:[^\\]|\\.)*?'''|"
    r'"""(?:[^\\]|\\.)*?"""|'
    r"'(?:[^'\\]|\\.)*'|"
    r'"(?:[^"\\]|\\.)*"|'
    r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|True|False|None",
    re.S,
)
# No value follows on another without a comma, as in calls, subscripts and sums: those nest without brackets.
_FOLLOWS = re.compile(r"[_\])}]\s*[_\[({]")


def read_literal(text: str, column: str) -> Any:
    """The value of a Python literal of what JSON has too (a tuple is a list). Raises Reject."""
    try:
        _check_harmless(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d", which Python keeps as it is
            tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            keys = [ast.literal_eval(key) for key in node.keys] if isinstance(node, ast.Dict) else []
            if len(set(keys)) < len(keys):
                raise ValueError("a key stands twice in one object")
        written = json.dumps(ast.literal_eval(tree), allow_nan=False, ensure_ascii=False)
        written.encode("utf-8")  # refuses half of a surrogate pair
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        what = f"{error.msg} at column {error.offset}" if isinstance(error, SyntaxError) else str(error)
        raise Reject("broken_json", f"{column} is no Python literal", what[:120]) from None
    return json.loads(written)


def inner_value(text: str, column: str) -> Any:
    """The value of text that is JSON or a Python literal. Raises Reject, with what JSON says of it."""
    try:
        return inner_json(text, column)
    except Reject as fault:
        try:
            return read_literal(text, column)
        except Reject:
            raise fault from None


def _check_harmless(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS:,} characters")
    rest, values = _ATOM.subn("_", text)
    if not re.fullmatch(r"[\[\]{}(),:\s_]*", rest) or _FOLLOWS.search(rest):
        raise ValueError("it holds more than texts, numbers, lists and objects")
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}()]", rest):
        depth += 1 if bracket in "[{(" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH or values > MAX_VALUES:
        raise ValueError("nested too deeply" if deepest > MAX_DEPTH else f"more than {MAX_VALUES:,} values")
