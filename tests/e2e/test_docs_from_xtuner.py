"""docs/from_xtuner.md: its commands run as they stand there, on a config in XTuner's style; all others exist."""

import re
import shlex
from importlib import import_module

import click
import pytest

from tests.conftest import QUICKSTART, ROOT
from tests.convert.old_checkpoints import adapted, write_config, write_pth
from tests.e2e.test_readme import blocks, commands
from xtune.cli.command import LazyCommand
from xtune.cli.main import cli, main
from xtune.recipe.legacy.import_config import WITHOUT_COUNTERPART

FILE = "docs/from_xtuner.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


def run(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "xtune"
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0, command


@pytest.mark.slow
def test_a_config_becomes_a_recipe_as_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old = write_config(tmp_path / "my_config_e3.py", "smollm2", template="moss_sft").read_text(
        encoding="utf-8"
    )
    data = f"dataset=dict(path={str(QUICKSTART / 'identity.jsonl')!r}),"
    (tmp_path / "my_config_e3.py").write_text(
        old.replace("dataset_map_fn=alpaca_map_fn,", f"dataset_map_fn='openai_map_fn', {data}"),
        encoding="utf-8",
    )
    for command in commands(FILE):
        run(command)
    captured = capsys.readouterr()
    assert "PROMPT_TEMPLATE.moss_sft" in captured.err
    assert "rank=4" in captured.out


@pytest.mark.slow
def test_a_checkpoint_becomes_an_adapter_as_the_page_says(tmp_path, monkeypatch, capsys, base_directory):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path / "old.py", "smollm2", template="default")
    file = tmp_path / "work_dirs" / "my_config_e3" / "iter_500.pth"
    file.parent.mkdir(parents=True)
    write_pth(file, adapted(base_directory), config)
    (block,) = blocks("text", FILE)
    convert, chat = block.splitlines()
    run(convert)
    run(f"{chat} --prompt Hello --max-new-tokens 3")
    captured = capsys.readouterr()
    assert "template smollm2" in captured.out
    assert "trained with XTuner's template default" in captured.err


def find(words: list[str]) -> click.Command:
    """The command that the first words of a command line name."""
    command: click.Command = cli
    for word in words:
        if isinstance(command, LazyCommand):
            module, _, attribute = command.target.partition(":")
            command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Group):
            break
        assert word in command.commands, words
        command = command.commands[word]
    if isinstance(command, LazyCommand):
        module, _, attribute = command.target.partition(":")
        command = getattr(import_module(module), attribute)
    return command


def test_every_command_exists_and_takes_what_the_page_gives_it():
    told = list(re.findall(r"`(xtune [^`]+)`", PAGE))
    assert len(told) > 12
    for line in told:
        words = line.split()[1:]
        known = {option for param in find(words).params for option in param.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_templates_without_counterpart_are_told():
    row = re.search(r"^\| `prompt_template` .*$", PAGE, re.M)[0]
    assert set(re.findall(r"`(\w+)`", row)) >= {*WITHOUT_COUNTERPART} - {"deepseekcoder"}
