"""Tools that a model may call: what it is told of them, and running a call."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtune.chat.calculator import calculate
from xtune.chat.python_tool import run_python
from xtune.data.mappers.tools import INTERPRETER
from xtune.errors import UsageError
from xtune.recipe.faults import did_you_mean
from xtune.templates.catalog import TEMPLATES
from xtune.templates.template import Template

LONGEST_RESULT = 8000
"""Characters of a result that the model gets."""


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    schema    what the model is told, in OpenAI's form
    run       takes the arguments by name; what it returns is shown to the model
    asks      whether the user is asked before each call
    """

    schema: Mapping[str, Any]
    run: Callable[..., Any]
    asks: bool = False

    @property
    def name(self) -> str:
        return self.schema["function"]["name"]


def load_tools(names: str, template: Template) -> tuple[Tool, ...]:
    """The tools of "python,calculator,FILE.py". Raises UsageError, also where the chat format has no tools."""
    if template.tool_calls is None:
        formats = ", ".join(sorted(name for name, facts in TEMPLATES.items() if facts.get("tool_calls")))
        raise UsageError(
            f"The model's chat format, {template.name}, has no tools.",
            where="--tools",
            fix=f"Use a model of one that has: {formats}.",
        )
    tools: list[Tool] = []
    for name in filter(None, map(str.strip, names.split(","))):
        if name == "python":
            # formats with a code interpreter of their own know it by this name
            own = template.tool_calls in ("internlm2", "chatglm3")
            tools.append(Tool(_described(python, INTERPRETER if own else "python"), python, asks=True))
        elif name == "calculator":
            tools.append(Tool(_described(calculator), calculator))
        elif name.endswith(".py"):
            tools += _tools_of(name)
        else:
            raise UsageError(
                f"There is no tool {name!r}{did_you_mean(name, ('python', 'calculator')) or '.'}",
                where="--tools",
                fix="Name python, calculator, or a file of functions, FILE.py.",
            )
    if twice := {tool.name for tool in tools if [other.name for other in tools].count(tool.name) > 1}:
        raise UsageError(f"Two tools have the name {min(twice)}.", where="--tools", fix="Rename one of them.")
    if not tools:
        raise UsageError("No tool is named.", where="--tools", fix="Name python, calculator or FILE.py.")
    return tuple(tools)


def python(code: str) -> str:
    """
    Run a Python program and return what it prints. Nothing is kept from one call to the next.

    Args:
        code: the program
    """
    return run_python(code)


def calculator(expression: str) -> str:
    """
    Work out an arithmetic expression in Python's notation, such as (2 + 3) * sqrt(2) ** 3.

    Args:
        expression: the expression
    """
    return str(calculate(expression))


def run_call(call: Mapping[str, Any], tools: Sequence[Tool], allowed: Callable[[Tool], bool]) -> str:
    """What a call comes to, as the model is shown it: a result, or in words what was wrong.

    allowed    asks the user whether a tool that `asks` may run
    """
    tool = next((tool for tool in tools if tool.name == call["name"]), None)
    if tool is None:
        return f"Error: there is no tool {call['name']!r}; the tools are: {', '.join(tool.name for tool in tools)}."
    from pydantic import ValidationError, validate_call

    arguments = call["arguments"]
    if tool.asks and not allowed(tool):
        return "Error: the user does not allow this call."
    try:
        with redirect_stdout(sys.stderr):  # stdout is for answers
            result = validate_call(tool.run)(**arguments)
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, default=str)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        text = f"Error: the arguments do not fit. {'; '.join(faults)}"
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        text = f"Error: {type(error).__name__}: {error}"
    cut = text.encode(errors="replace").decode()
    return cut if len(cut) <= LONGEST_RESULT else f"{cut[:LONGEST_RESULT]} … (cut: {len(cut)} characters)"


def _tools_of(file: str) -> list[Tool]:
    """The functions of a Python file, which is run."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError("There is no such file.", where=f"--tools {file}", fix="Check the path.")
    name = f"xtune_tools_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses and pydantic look
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"The file cannot be run: {type(error).__name__}: {error}.", where=file, fix="Put it right."
        ) from None
    functions = [
        function
        for each, function in vars(module).items()
        if inspect.isfunction(function) and function.__module__ == name and not each.startswith("_")
    ]
    if not functions:
        raise UsageError("The file has no functions.", where=file, fix="Define some; see docs/chat.md.")
    return [Tool(_described(function), function) for function in functions]


def _described(function: Callable, name: str | None = None) -> dict[str, Any]:
    """A function's schema, of its type hints and docstring. Raises UsageError where these do not tell enough."""
    from transformers.utils import get_json_schema

    try:
        schema = get_json_schema(function)
    except Exception as error:  # of several unrelated kinds
        raise UsageError(
            f"The model cannot be told what {function.__name__} is: {str(error).splitlines()[0]}",
            where=inspect.getsourcefile(function),
            fix="Give it type hints, and a docstring that ends with Args: and a line `name: what it is` for each.",
        ) from None
    facts = {key: schema["function"][key] for key in ("name", "description", "parameters")}
    return {"type": "function", "function": {**facts, **({"name": name} if name else {})}}
