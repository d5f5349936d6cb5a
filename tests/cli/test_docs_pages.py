"""The documentation: read by `xtune docs`, whole as a site, its reference that of the schema; help and completion."""

import os
import re
import runpy
import subprocess
import sys

import click
import pytest
import yaml

from tests.conftest import ROOT
from xtune import errors
from xtune.cli.command import LazyCommand
from xtune.cli.main import cli, main
from xtune.pages import pages, read_page


def test_every_page_is_listed_and_shown(capsys):
    for name in pages():
        with pytest.raises(SystemExit) as ended:
            main(["docs", name])
        assert ended.value.code == 0
        assert (
            capsys.readouterr().out
            == (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
            == read_page(name)
        )


def test_a_misspelt_page_is_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["docs", "dat"])
    assert ended.value.code == 2
    assert "Did you mean 'data'?" in capsys.readouterr().err


def test_errors_link_to_a_page_that_is_there():
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    linked = {one.page for one in kinds} - {None}
    assert linked <= set(pages())
    assert linked


def test_the_reference_is_that_of_the_schema():
    script = runpy.run_path(str(ROOT / "docs/reference.py"))
    assert read_page("recipes").partition(script["BEGIN"])[2].strip() == script["reference"]().strip()


def test_recipes_of_the_page_load(tmp_path):
    from xtune.recipe.copy import copy_recipe
    from xtune.recipe.load import load_recipe

    copy_recipe("smollm2_lora", tmp_path)
    for name, code in re.findall(
        r"<!-- recipe:? ?(\S*) -->\n```python\n(.*?)```", read_page("recipes"), re.S
    ):
        file = tmp_path / (name or "first.py")
        file.write_text(code, encoding="utf-8")
        assert load_recipe(file).train.epochs in (1, 3)


def test_links_between_pages_lead_somewhere():
    anchors = {name: {slug(line) for line in headings(name)} for name in pages()}
    for name in [*pages(), "index_zh"]:
        text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            assert not file or (ROOT / "docs" / file).exists(), f"{name}: {target}"
            page = file.removesuffix(".md") if file else name
            assert not anchor or page not in anchors or anchor in anchors[page], f"{name}: {target}"


def headings(name):
    return re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", read_page(name), flags=re.M | re.S), re.M)


def slug(heading):
    """As GitHub and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_every_page_is_in_the_site_s_contents():
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r": (\w+)\.md$", contents, re.M)) == sorted([*pages(), "index_zh"])


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in pages():
        page = tmp_path / "site" / ("index.html" if name == "index" else f"{name}/index.html")
        assert not re.search(
            r'(?:src|href)="https?://(?!github\.com|huggingface\.co|ui\.perfetto\.dev)[^"]*\.(?:js|css)',
            page.read_text(),
        )


def test_help_of_every_command_begins_with_an_example():
    for name, command in every_command(cli, "xtune"):
        context = click.Context(command, info_name=name)
        example, _, usage = command.get_help(context).partition("\n\n")
        assert example.startswith(f"Example: {name}"), name
        assert usage.startswith("Usage: "), name


def every_command(group, name):
    yield name, group
    for key, command in group.commands.items():
        if isinstance(command, LazyCommand):
            command = command.load()
        if isinstance(command, click.Group):
            yield from every_command(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tr", "train"),
        ("train smollm2_l", "smollm2_lora"),
        ("convert me", "merge"),
        ("chat --com", "--compare"),
    ],
)
def test_the_tab_key_completes(words, completed):
    environment = {"_XTUNE_COMPLETE": "bash_complete", "COMP_WORDS": f"xtune {words}"}
    environment["COMP_CWORD"] = str(len(words.split()))
    done = subprocess.run(
        [sys.executable, "-m", "xtune"], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert f"plain,{completed}" in done.stdout.splitlines()


def test_pre_commit_has_the_pinned_versions():
    pinned = (ROOT / "requirements/dev.txt").read_text()
    for hook in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]:
        package = hook["repo"].rpartition("/")[2].removesuffix("-pre-commit")
        assert f"{package}=={hook['rev'].removeprefix('v')}" in pinned
