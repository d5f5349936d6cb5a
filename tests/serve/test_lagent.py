"""examples/lagent_agent: Lagent, as its README installs it, works with a served model."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.serve.conftest import running

EXAMPLE = ROOT / "examples" / "lagent_agent"
README = (EXAMPLE / "README.md").read_text(encoding="utf-8")
STEPS = (
    'Thought: I have to multiply.\nAction: Calculator\nAction Input: {"expression": "17 * 23"}\nResponse: 5',
    "Thought: I know it.\nFinal Answer: 17 * 23 is 391.",
)


@pytest.mark.slow
def test_an_agent_uses_a_tool(tiny_model, tmp_path, scripted):
    install, use = (block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.S))
    for line in install:
        command = shlex.split(line.replace("python -m", f"{sys.executable} -m", 1))
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    # what a model that is good at it would write
    scripted(*STEPS)
    served, asked = map(shlex.split, use)
    name = served[-1].partition("=")[0]
    with running([f"{name}={tiny_model}"]) as server:
        command = [tmp_path / asked[0], EXAMPLE / asked[1], *asked[2:], server.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == re.search(r"```text\n(.*?)```", README, re.S)[1]
