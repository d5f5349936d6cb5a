"""The examples: the commands of each README run as they stand there, and the model has learnt what it says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from xtune.recipe.load import load_recipe

EXAMPLES = ROOT / "examples"
RUN_ELSEWHERE = {"arithmetic_grpo", "cool", "quickstart", "your_own_family", "lagent_agent"}
"""By test_online_examples, test_readme, test_your_own_family and tests/serve."""
HERE = ("own_data", "tool_calling", "preferences", "reward_conditions", "long_context")


@pytest.fixture
def played(tmp_path):
    """Runs all of an example's commands, and its Python, in a copy; gives what each printed."""

    def play(name: str) -> dict[str, str]:
        shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("runs", "__pycache__"))
        folder = tmp_path / "examples" / name
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        printed = {}
        for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", readme(name), re.M | re.S):
            lines = [line.partition("  #")[0].strip() for line in code.splitlines() if line.strip()]
            for command in lines if language == "bash" else [code]:
                call = command if language == "bash" else [sys.executable, "-c", command]
                done = subprocess.run(
                    call,
                    shell=language == "bash",
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
                printed[command] = done.stdout
        return printed

    return play


def readme(name: str) -> str:
    return (EXAMPLES / name / "README.md").read_text(encoding="utf-8")


def test_every_example_is_run_by_a_test():
    assert {folder.name for folder in EXAMPLES.iterdir() if folder.is_dir()} == RUN_ELSEWHERE | set(HERE)


@pytest.mark.parametrize("name", HERE)
def test_recipes_load_and_files_are_told(name):
    load_recipe(EXAMPLES / name / "recipe.py")
    told = set(re.findall(r"^\| `([\w.]+)` \|", readme(name), re.M))
    assert all((EXAMPLES / name / file).is_file() for file in told)


@pytest.mark.slow
def test_own_data_answers_as_the_shop_does(played):
    printed = played("own_data")
    assert "7 left out by to_sample" in printed["xtune data check recipe.py"]
    assert "Plum" in list(printed.values())[-1]


@pytest.mark.slow
def test_tool_calling_calls_the_tool(played):
    printed = played("tool_calling")
    assert "on its way" in next(text for command, text in printed.items() if "4711" in command)


@pytest.mark.slow
def test_preferences_are_brief(played):
    printed = played("preferences")
    assert 0 < len(list(printed.values())[-1].strip()) < 120


@pytest.mark.slow
def test_reward_follows_its_condition(played):
    printed = list(played("reward_conditions").values())[-1]
    (short, long), (short_of_details, long_of_details) = (
        [float(number) for number in re.findall(r"-?\d+\.\d+", line)] for line in printed.splitlines()
    )
    assert short - long > short_of_details - long_of_details


@pytest.mark.slow
def test_long_context_trains_and_keeps_its_scaling(played, tmp_path):
    import json

    played("long_context")
    config = json.loads((tmp_path / "examples/long_context/merged/config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["max_position_embeddings"] == 16384
