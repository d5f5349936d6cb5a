"""The wheel is complete: recipes and the data they name travel with the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of an unpacked wheel, built from this clone."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    build = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True)
    (wheel,) = folder.glob("xtune-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "unpacked")
    return folder / "unpacked"


def run(unpacked, cwd, *args):
    return subprocess.run(
        [sys.executable, "-m", "xtune", *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_wheel_holds_every_recipe_and_example(unpacked):
    for folder in ("configs", "examples"):
        files = [f.relative_to(ROOT) for f in (ROOT / folder).rglob("*") if "__pycache__" not in f.parts]
        assert files
        assert all((unpacked / "xtune" / file).exists() for file in files if (ROOT / file).is_file())


def test_wheel_holds_what_is_compiled(unpacked):
    files = list((ROOT / "xtune" / "kernels" / "c").iterdir())
    assert files
    assert all((unpacked / file.relative_to(ROOT)).exists() for file in files)


def test_recipes_of_an_installed_wheel(unpacked, tmp_path):
    assert "smollm2_lora" in run(unpacked, tmp_path, "recipes")
    shown = run(unpacked, tmp_path, "recipes", "show", "smollm2_lora")
    assert str(unpacked / "xtune/examples/quickstart/identity.jsonl") in shown  # this package, not the clone
    run(unpacked, tmp_path, "recipes", "copy", "smollm2_lora", "mine")
    assert (tmp_path / "mine/identity.jsonl").is_file()
    assert str(tmp_path / "mine/identity.jsonl") in run(
        unpacked, tmp_path, "recipes", "show", "mine/smollm2_lora.py"
    )
