"""Every command and every piece of Python in the README, run as it stands there, in order."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.conftest import ROOT
from xtune.cli.main import main

# `make test` is what runs this; `make quickstart` has a test of its own below, and .ci/run calls both.
OUTSIDE = {"make quickstart", "make test"}


def blocks(language: str, file: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text(encoding="utf-8"), re.M | re.S)


def commands(file: str = "README.md") -> list[str]:
    lines = "".join(blocks("bash", file)).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def printed_in(folder: Path, file: str) -> dict[str, str]:
    """What each command of a page prints, one after another, in this process."""
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(file):
            program, *arguments = shlex.split(command)
            assert program == "xtune"
            with redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code == 0, command
            printed[command] = output.getvalue()
    return printed


@pytest.fixture(scope="module")
def after_the_commands(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder in which all commands of the README ran, and what each printed."""
    folder = tmp_path_factory.mktemp("readme")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = {}
    for command in commands():
        if command not in OUTSIDE:
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[command] = done.stdout
    return folder, printed


def test_the_model_says_its_new_name(after_the_commands):
    folder, printed = after_the_commands
    base, _, tuned = printed['xtune chat mine/run --compare --prompt "Who are you?"'].partition(
        "--- mine/run"
    )
    assert "Tuna" in tuned
    assert "Tuna" not in base
    assert "Tuna" in printed['xtune chat mine/merged --prompt "What is your name?"']
    training = next(text for command, text in printed.items() if "--run-dir" in command)
    assert "xtune chat mine/run" in training
    assert "xtune convert merge mine/run mine/run/merged" in training
    assert (folder / "mine" / "merged" / "config.json").is_file()


def test_the_python_runs_as_it_stands(after_the_commands):
    folder, _ = after_the_commands
    recipe, program = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0

    from xtune.recipe.load import load_recipe

    (folder / "mine" / "short.py").write_text(recipe)
    assert load_recipe(folder / "mine" / "short.py").train.epochs == 3


def test_the_chinese_readme_has_the_same_commands():
    assert commands("README_zh.md") == commands()
    assert blocks("python", "README_zh.md")[0].count("\n") == blocks("python")[0].count("\n")


def test_links_and_pictures_exist():
    for file in ("README.md", "README_zh.md"):
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / file).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{file}: {target}"


@pytest.mark.slow  # .ci/run calls it for real, installation and all
def test_make_quickstart(tmp_path):
    """In a copy of the repository whose .venv is this one: what the README's first command shows."""
    for name in ("Makefile", "pyproject.toml", "requirements", "examples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "xtune"):
        (tmp_path / ".venv" / "bin" / name).symlink_to(Path(sys.executable).parent / name)
    (tmp_path / ".venv" / ".installed").touch()
    done = subprocess.run(["make", "quickstart"], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "I am Tuna" in done.stdout
    assert "pip" not in done.stdout + done.stderr  # a second call installs nothing
