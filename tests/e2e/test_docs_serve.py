"""docs/serve.md: its commands are understood, its Python runs as it stands there against a tiny model."""

import io
import os
import re
import shlex
from contextlib import redirect_stdout

import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, commands
from tests.serve.conftest import running
from xtune.cli.main import main
from xtune.serve import engine, request, server

FILE = "docs/serve.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


def test_the_commands_are_understood(monkeypatch):
    called = []
    monkeypatch.setattr(
        "xtune.serve.server.serve", lambda targets, **options: called.append((targets, options))
    )
    for command in commands(FILE):
        words = shlex.split(command)
        if "=" in words[0]:
            monkeypatch.setitem(os.environ, *words.pop(0).split("=", 1))
        if words[0] == "xtune":
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            assert ended.value.code == 0, command
    assert [list(targets) for targets, _ in called] == [
        ["runs/my-run"],
        ["smollm2", "runs/my-run", "second=runs/other-run"],
        ["runs/my-run"],
        ["runs/my-run/merged"],
        ["runs/my-run"],
    ]
    assert called[3][1]["compare"] == "smollm2"
    assert (called[4][1]["api_key"], called[4][1]["host"]) == ("choose-one", "0.0.0.0")


def test_the_python_runs_as_it_stands(tiny_model):
    (program,) = blocks("python", FILE)
    with running([f"my-run={tiny_model}"]) as served, redirect_stdout(io.StringIO()) as printed:
        exec(
            program.replace("http://127.0.0.1:8000", served.url).replace("temperature=0", "max_tokens=3"), {}
        )
    assert printed.getvalue().strip()


def test_limits_are_those_of_the_code():
    stated = re.search(r"Up to (\d+) answers .* (\d+) more wait", PAGE)
    assert [int(number) for number in stated.groups()] == [engine.ROWS, engine.WAITING]
    assert f"after {request.MAX_TOKENS} tokens" in PAGE
    assert f"`n` up to {request.MAX_CHOICES}" in PAGE
    assert f"have {server._GRACE} seconds" in PAGE
    for name in re.findall(r"`(\w+)", re.search(r"^\| Read \|.*", PAGE, re.M)[0]):
        assert name in {*request.ChatRequest.model_fields, "stream_options", "none", "auto"}


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
