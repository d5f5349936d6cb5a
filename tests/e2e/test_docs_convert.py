"""docs/convert.md: its commands are those that there are, and those of servers are what is printed."""

import re
import shlex

import click
import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import commands
from xtune.cli.main import cli
from xtune.convert.gguf import _ARCHITECTURES

FILE = "docs/convert.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")
IN_TABLE = re.findall(r"^\|.*\| `(xtune convert .*?)`", PAGE, re.M)


@pytest.mark.parametrize("command", [*IN_TABLE, *commands(FILE)])
def test_commands_are_understood(command):
    program, *words = shlex.split(command)
    context, group = click.Context(cli, info_name=program), cli
    while words:
        name, words = words[0], words[1:]
        assert name in group.commands, command
        context = group.commands[name].make_context(name, list(words), parent=context)
        if not isinstance(context.command, click.Group):
            return
        group = context.command


def test_every_command_is_in_the_table():
    convert = cli.commands["convert"].make_context("convert", ["merge", "a", "b"]).command
    assert {shlex.split(command)[2] for command in IN_TABLE} == set(convert.commands)


def test_architectures():
    import gguf

    written = set(re.findall(r"^\| [A-Z].* \| `(\w+)` \|$", PAGE, re.M))
    names = {gguf.MODEL_ARCH_NAMES[getattr(gguf.MODEL_ARCH, name)] for name in _ARCHITECTURES.values()}
    assert written == names


def test_commands_of_servers_are_those_that_are_printed(tiny_model, tmp_path, monkeypatch):
    import json
    import shutil
    from pathlib import Path

    from xtune.convert.deploy import serve_command

    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```text\n(vllm .*)\n(lmdeploy .*)\n```", PAGE)
    for line, server, name in (
        (shown[1], "vllm", "my-assistant"),
        (shown[2], "lmdeploy", "my-assistant-too"),
    ):
        shutil.copytree(tiny_model, name)
        config = json.loads((Path(name) / "config.json").read_text())
        (Path(name) / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
        assert serve_command(Path(name), server) == line
