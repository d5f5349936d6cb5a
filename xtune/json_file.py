"""JSON files of models and adapters, which may be damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtune.errors import UsageError


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UsageError where it holds none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{file.name} is not JSON: {error}", where=str(file), fix="Copy the file again."
        ) from None
    if not isinstance(content, dict):
        raise UsageError(f"{file.name} is not a table.", where=str(file), fix="Copy the file again.")
    return content


def read_json_if_there(file: Path) -> dict[str, Any]:
    """The same, and {} where there is no such file."""
    return read_json(file) if file.is_file() else {}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Readable JSON."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
