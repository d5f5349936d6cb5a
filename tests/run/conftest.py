"""Runs to look at: copies of two real ones on SmolLM2, without their weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "two_runs"


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """runs/first and runs/second, where the test stands: the quickstart, and the same at a rate 1000 times smaller."""
    shutil.copytree(FIXTURES, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def rewrite(file: Path, change) -> None:
    """Put change(content) in the place of a JSON file's content."""
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
