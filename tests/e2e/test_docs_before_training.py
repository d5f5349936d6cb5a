"""docs/before_training.md: its commands run as they stand there, and say what it shows but for what differs."""

from __future__ import annotations

import re
import shlex

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, commands
from tests.training.test_estimate import said

FILE = "docs/before_training.md"
MACHINES = re.compile(r"free|about .* on this|seconds for")


def test_the_page(monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = {}
    for command in commands(FILE):
        program, *arguments = shlex.split(command)
        assert program == "xtune"
        code, printed[command], err = said(*arguments)
        assert code == 0, (command, err)
    shown = [command for command in commands(FILE) if "--gpu" not in command]
    for command, text in zip(shown, blocks("text", FILE), strict=True):
        lines = printed[command].splitlines()
        for line in text.splitlines():
            assert line in lines or MACHINES.search(line), f"{command} does not say {line!r}"
