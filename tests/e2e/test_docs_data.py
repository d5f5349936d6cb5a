"""docs/data.md: its commands, recipes and Python run as they stand there; its tables are those of the code."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks, commands, printed_in
from xtune.data.mappers import MAPPERS
from xtune.data.mappers.mapper import never
from xtune.data.recognise import KINDS
from xtune.recipe.data_schema import Data, Defects, Source
from xtune.recipe.load import load_recipe

FILE = "docs/data.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


def marked(mark: str) -> list[tuple[str, str]]:
    """(what the mark says, code) of the blocks that stand behind <!-- mark: ... -->."""
    return re.findall(rf"<!-- {mark}:? ?(\S*) -->\n```\w+\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def after_the_commands(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder in which all commands of the page ran, and what each printed."""
    folder = tmp_path_factory.mktemp("data_page")
    for name, content in marked("file"):
        (folder / name).write_text(content, encoding="utf-8")
    return folder, printed_in(folder, FILE)


def test_the_commands_say_what_the_page_shows(after_the_commands):
    _, printed = after_the_commands
    first, _, third, *_ = commands(FILE)
    for command, shown in zip((first, third), blocks("text", FILE), strict=True):
        said = iter(printed[command].splitlines())
        for line in shown.splitlines():
            assert line == "…" or line in said, f"{command} does not say {line!r}, or not there"


def test_every_row_is_kept_removed_or_rejected(after_the_commands):
    folder, _ = after_the_commands
    report = json.loads((folder / "cleaned.jsonl.report.json").read_text(encoding="utf-8"))
    lines = (folder / "my_data.jsonl").read_text().splitlines()
    cleaned = (folder / "cleaned.jsonl").read_text().splitlines()
    assert report["read"] == len(lines) == len(cleaned) + report["removed"] + report["rejected"]
    assert set(cleaned) < set(lines)
    assert len((folder / "removed.jsonl").read_text().splitlines()) == report["removed"] == 1
    assert len((folder / "rejected.jsonl").read_text().splitlines()) == report["rejected"] == 2


def test_formats_of_ones_own(after_the_commands):
    _, printed = after_the_commands
    in_recipe, in_file = (
        text for command, text in printed.items() if "tickets" in command and " check " in command
    )
    assert "2: 2 kept" in in_recipe
    assert "1 left out by to_sample" in in_file


@pytest.mark.parametrize("code", [code for _, code in marked("recipe")])
def test_recipes_are_valid(code, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f'model = dict(path="smollm2")\nmethod = dict(kind="lora")\n{code}', encoding="utf-8")
    assert load_recipe(recipe).data.sources


def test_the_python_runs_as_it_stands(after_the_commands, monkeypatch, capsys):
    folder, _ = after_the_commands
    monkeypatch.chdir(folder)
    exec(blocks("python", FILE)[-1], {})
    said = capsys.readouterr().out
    assert "6 records read, 4 kept, 2 rejected" in said
    assert "assistant The Loire." in said
    assert "-100" in said


def code(name: str) -> str:
    return f"`{name}`"


def formats_table() -> str:
    rows = ["| format | columns | gives | other names |", "|---|---|---|---|"]
    for mapper in MAPPERS:
        name = f"*{code(mapper.name)}*" if mapper.fits is never else code(mapper.name)
        columns = re.sub(r"<\|(\w+)\|>", r"`<\|\1\|>`", mapper.columns)
        aliases = ", ".join(map(code, mapper.aliases))
        rows.append(f"| {name}{' †' * bool(mapper.system)} | {columns} | {KINDS[mapper.kind]} | {aliases} |")
    return "\n".join(rows)


def defects_table() -> str:
    rows = ["| defect | what it is | default | or |", "|---|---|---|---|"]
    for name, defect in Defects.model_fields.items():
        what = re.sub(r"<\|(\w+)\|>", r"`<\|\1\|>`", " ".join(defect.description.split()))
        others = ", ".join(code(action) for action in get_args(defect.annotation) if action != defect.default)
        rows.append(f"| {code(name)} | {what} | {code(defect.default)} | {others} |")
    return "\n".join(rows)


@pytest.mark.parametrize(("mark", "table"), [("formats", formats_table()), ("defects", defects_table())])
def test_tables_are_those_of_the_code(mark, table):
    assert f"<!-- {mark} -->\n\n{table}\n\n" in PAGE, f"Put this behind <!-- {mark} --> in {FILE}:\n{table}"


@pytest.mark.parametrize(("file", "counted"), [("README.md", "{} formats"), ("README_zh.md", "{} 种格式")])
def test_the_readme_counts_the_formats(file, counted):
    assert counted.format(len(MAPPERS)) in (ROOT / file).read_text(encoding="utf-8")


def test_every_option_is_told():
    for name in {*Data.model_fields, *Source.model_fields} - {"sources", "path"}:
        assert re.search(rf"`(data\.)?{name}\b", PAGE), name
    overlong = PAGE.partition("## Samples that are too long")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", overlong, re.M)
    assert set(told[1:]) == set(get_args(Data.model_fields["overlong"].annotation))


def test_every_option_of_cleaning_is_told():
    from xtune.cli.data_clean import clean

    table = PAGE.partition("## Cleaning")[2].partition("## Cache")[0]
    told = set(re.findall(r"--[a-z-]+", table))
    for option in clean.params:
        names = {*option.opts, *option.secondary_opts}
        assert option.name in ("source", "out", "format", "as_json", "help") or names & told, option.name


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
