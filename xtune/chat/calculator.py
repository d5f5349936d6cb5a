"""The calculator that a model may call: arithmetic as Python writes it, never evaluated as a program."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

_MAX_BITS = 10_000
"""Of whole numbers: what is larger nobody can read, and its powers would take all memory."""
_MAX_LENGTH = 1000


def _round(number: float, digits: int = 0) -> int | float:
    if abs(digits) > 400:  # Python would work out 10 to that power
        raise ValueError("round takes at most 400 digits")
    return round(number, digits) if digits else round(number)


_BINARY: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Callable] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_FUNCTIONS: dict[str, Callable] = {
    **{name: getattr(math, name) for name in ("sqrt", "exp", "log", "log2", "log10", "sin", "cos", "tan")},
    **{name: getattr(math, name) for name in ("asin", "acos", "atan", "floor", "ceil", "degrees", "radians")},
    "abs": abs,
    "round": _round,
    "min": min,
    "max": max,
}


def calculate(expression: str) -> int | float:
    """The value of an arithmetic expression: + - * / // % **, parentheses, pi, e, and sqrt, log, sin, round, max ...

    Raises ValueError for what is none, or comes out too large; ArithmeticError where there is no result.
    """
    if len(expression) > _MAX_LENGTH:
        raise ValueError(f"the expression is longer than {_MAX_LENGTH} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):  # deep nesting: the parser's two ways to give up
        raise ValueError("this is no arithmetic expression") from None
    except TypeError as error:
        raise ValueError(str(error)) from None


def _value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _checked(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _value(node.left), _value(node.right)
        whole = isinstance(left, int) and isinstance(right, int)
        if isinstance(node.op, ast.Pow) and whole and right * (abs(left).bit_length() - 1) > _MAX_BITS:
            raise ValueError("the result is too large")
        return _checked(_BINARY[type(node.op)](left, right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](_value(node.operand))
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords
    if called and (function := _FUNCTIONS.get(node.func.id)):
        return _checked(function(*map(_value, node.args)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitXor):
        raise ValueError("a power is written **, not ^")
    raise ValueError(f"this is not arithmetic: {ast.unparse(node)[:80]}")


def _checked(value: Any) -> int | float:
    if isinstance(value, complex):
        raise ValueError("the result is not a real number")
    if value.bit_length() > _MAX_BITS if isinstance(value, int) else not math.isfinite(value):
        raise ValueError("the result is too large")
    return value
