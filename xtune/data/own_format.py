"""A format of the user's own: a function from a row to a sample, in a Python file or in the recipe itself.

    def to_sample(row):
        return {"messages": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}

It may return a Sample (or Pair ...), a row of any format that is known, a list of these, or None to leave the row
out; or yield them.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from xtune.data.findings import Findings, Reject
from xtune.data.mappers import MAPPERS
from xtune.data.mappers.mapper import Mapper, kind
from xtune.data.report import LEFT_OUT
from xtune.errors import UsageError
from xtune.messages import ROLES, AnySample, Message, Sample


def own_mapper(reference: str) -> Mapper:
    """The mapper of "file.py:function". Raises UsageError where there is no such function."""
    function = load_function(reference)
    file, _, name = reference.rpartition(":")

    def map_row(row: Any, found: Findings) -> list[AnySample]:
        try:
            given = function(row)
            if isinstance(given, Iterator):
                given = list(given)
        except Reject:
            raise
        except Exception as error:  # whatever the user's code raises
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == file]
            reason = f"{name} raised {type(error).__name__}" + (f" in line {lines[-1]}" if lines else "")
            raise Reject("wrong_columns", reason, str(error)[:200]) from None
        # A bare list of turns is a row itself.
        several = isinstance(given, list | tuple) and not any(mapper.fits(given) for mapper in MAPPERS)
        samples = [sample for one in (given if several else [given]) for sample in _samples(one, name, found)]
        if not samples:
            raise Reject("", f"{LEFT_OUT} {name}")
        return samples

    return Mapper(reference, f"what {name} reads", lambda _: True, map_row, kind=object)


def _samples(given: Any, name: str, found: Findings) -> list[AnySample]:
    if given is None:
        return []
    if isinstance(given, get_args(AnySample)):
        return [_checked(given, name)]
    fitting = [mapper for mapper in MAPPERS if mapper.fits(given) and not mapper.gather]
    if not fitting:
        what = kind(given) if isinstance(given, dict | list | str | int | float) else type(given).__name__
        raise Reject("wrong_type", f"{name} returned {what} that is neither a Sample nor of a known format")
    mapper = min(fitting, key=lambda mapper: mapper.kind is not Sample)
    if several := [other.name for other in fitting if other.kind is mapper.kind][1:]:
        raise Reject(
            "wrong_type", f"{name} returned a row of several formats", ", ".join([mapper.name, *several])
        )
    mapped = mapper.map(given, found)
    return [mapped] if isinstance(mapped, get_args(AnySample)) else list(mapped)


_TURNS = ("messages", "prompt", "chosen", "rejected")


def _checked(sample: AnySample, name: str) -> AnySample:
    """A sample made by hand, its lists as tuples. Raises Reject where it holds what no mapper would give."""
    try:
        if not isinstance(getattr(sample, "text", ""), str):
            raise TypeError
        parts = [part for part in _TURNS if hasattr(sample, part)]
        tuples = {part: tuple(map(_checked_turn, getattr(sample, part))) for part in parts}
        return replace(sample, **tuples, **({"tools": tuple(sample.tools)} if parts else {}))
    except TypeError:
        what = f"a {type(sample).__name__} with something other than text, turns or known roles in it"
        raise Reject("wrong_type", f"{name} returned {what}") from None


def _checked_turn(turn: Any) -> Message:
    if not (
        isinstance(turn, Message)
        and turn.role in ROLES
        and isinstance(turn.content, str)
        and isinstance(turn.reasoning, str | None)
        and all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in turn.tool_calls)
    ):
        raise TypeError
    return replace(turn, tool_calls=tuple(turn.tool_calls))


def load_function(reference: str) -> Callable[[Any], Any]:
    """The function of "file.py:function".

    The file may be a recipe: its `with read_base():`, which only mmengine can run, is passed over, and with it what
    needs the base files. Raises UsageError.
    """
    file, _, name = reference.rpartition(":")
    try:
        tree = ast.parse(Path(file).read_text(encoding="utf-8"), file)
    except OSError as error:
        raise UsageError(
            f"The file cannot be read: {error.strerror}.", where=file, fix="check the path"
        ) from None
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"This is not Python: {error}.", where=file, fix="put the file right") from None
    module = ModuleType(f"xtune_own_{Path(file).stem}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # where dataclasses look
    statements = [node for node in tree.body if not isinstance(node, ast.With) or not _reads_base(node)]
    has_bases = len(statements) < len(tree.body)
    failed = ""
    for statement in statements:
        try:
            exec(compile(ast.Module([statement], []), file, "exec"), vars(module))
        except Exception as error:
            failed = failed or f"{type(error).__name__} in line {statement.lineno}: {error}"
            if not has_bases:
                raise UsageError(
                    f"The file cannot be run: {failed}.", where=file, fix="put it right"
                ) from None
    if not callable(getattr(module, name, None)):
        raise UsageError(
            f"There is no function {name}" + (f" ({failed})." if failed else "."),
            where=file,
            fix=f"define {name}(row) there",
        )
    return getattr(module, name)


def _reads_base(node: ast.With) -> bool:
    call = node.items[0].context_expr
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_base"
