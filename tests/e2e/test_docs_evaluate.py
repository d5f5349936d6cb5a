"""docs/evaluate.md: its commands run as they stand there and print what it shows; its task is a task."""

import json
import re
import shlex
from contextlib import redirect_stdout
from io import StringIO

import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, commands
from xtune.cli.eval import evaluate as command
from xtune.cli.main import main
from xtune.evaluate.evaluate import Wanted, evaluate

FILE = "docs/evaluate.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the page's task in it."""
    folder = tmp_path_factory.mktemp("evaluate_page")
    (folder / "capitals.yaml").write_text(*blocks("yaml", FILE), encoding="utf-8")
    (folder / "capitals.jsonl").write_text(*blocks("json", FILE), encoding="utf-8")
    return folder


def test_the_task_is_one(folder, tiny_model):
    (measured,) = evaluate([str(tiny_model)], Wanted(tasks=[str(folder / "capitals.yaml")])).measurements
    assert (measured.name, measured.samples, [*measured.figures]) == ("capitals", 5, ["acc", "acc_norm"])


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows(folder, monkeypatch):
    monkeypatch.chdir(folder)
    printed = []
    for line in commands(FILE):
        program, *arguments = shlex.split(line)
        assert program == "xtune"
        with redirect_stdout(StringIO()) as output, pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0, line
        printed.append(output.getvalue())
    held_out, tasks = blocks("text", FILE)

    def numbers(text):
        return [float(number) for number in re.findall(r"\d+\.\d+", text)]

    for shown, said in ((held_out, printed[2]), (tasks, printed[-1])):
        assert re.sub(r"[\d.]+", "0", said).split() == re.sub(r"[\d.]+", "0", shown).split()
    # Training is not the same to the last digit on every machine; the base is.
    assert numbers(printed[2])[0] == pytest.approx(numbers(held_out)[0], abs=1e-3)
    assert numbers(printed[2])[1] == pytest.approx(numbers(held_out)[1], abs=0.2)
    assert len(json.loads((folder / "mine" / "run" / "eval.json").read_text())["measurements"]) == 1


def test_every_option_is_told():
    for option in command.params:
        if option.name not in ("targets", "format"):
            assert re.search(rf"{option.opts[0]}\b", PAGE), option.name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
