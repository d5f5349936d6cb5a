"""docs/runs.md: its commands say what it shows, on copies of the two runs that it tells of."""

import re
import shutil
from typing import get_args

import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, printed_in
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Train

FILE = "docs/runs.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")
SIZE = re.compile(r"\d[\d.]* (bytes|[kMG]B)$")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[str, str]:
    """What each command of the page printed."""
    folder = tmp_path_factory.mktemp("runs_page")
    shutil.copytree(ROOT / "tests" / "fixtures" / "two_runs", folder / "runs")
    said = printed_in(folder, FILE)
    assert (folder / "compare.html").is_file()
    assert (folder / "runs" / "first" / "report.html").is_file()
    return said


def plain(text: str) -> list[str]:
    """Lines as they are compared: sizes differ, as the copies have no weights, and so do widths."""
    lines = (re.sub(r"[ ─]+", " ", SIZE.sub("", line.rstrip())).strip() for line in text.splitlines())
    return [line for line in lines if line]


def test_commands_say_what_the_page_shows(printed):
    shown = blocks("text", FILE)
    said = [
        printed[command]
        for command in ("xtune runs", "xtune runs compare runs/first runs/second", "xtune doctor runs/second")
    ]
    for text, expected in zip([*said, printed["xtune doctor runs/first"]], shown, strict=True):
        assert plain(text) == plain(expected)


def test_programs_are_those_of_the_schema(tmp_path):
    named = re.findall(r"^\| `(\w+)` \| `pip install 'xtune\[(\w+)\]'`", PAGE, re.M)
    allowed = get_args(get_args(Train.model_fields["report_to"].annotation)[0])
    assert [name for name, _ in named] == [extra for _, extra in named] == [*allowed]
    recipe = tmp_path / "recipe.py"
    (code,) = blocks("python", FILE)
    start = (
        'model = dict(path="smollm2")\nmethod = dict(kind="lora")\ndata = dict(sources=[dict(path="a")])\n'
    )
    recipe.write_text(start + code, encoding="utf-8")
    assert load_recipe(recipe).train.report_to == ["tensorboard", "wandb"]


def test_files_of_a_run_are_told():
    from xtune.run import directory

    named = set(re.findall(r"^(\w+\.\w+|\w+/)", directory.__doc__, re.M)) - {"tensorboard/"}
    for name in named:
        assert f"`{name}`" in PAGE, name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
