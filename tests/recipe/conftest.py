"""Recipe files to load."""

from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path):
    """write("folder/file.py", text) -> the file, in the test's own folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def minimal() -> str:
    """The text of the shortest recipe: four lines, the first empty."""
    return """
model = dict(path="smollm2")
method = dict(kind="lora")
data = dict(sources=[dict(path="rows.jsonl")])
"""
