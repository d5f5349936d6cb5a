"""examples/arithmetic_grpo learns to add; examples/cool finds the hack that its first reward model invites."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from xtune.recipe.load import load_recipe
from xtune.training.train import train

COOL = ROOT / "examples" / "cool"


@pytest.fixture
def cool(monkeypatch):
    """examples/cool/run.py as a module."""
    monkeypatch.syspath_prepend(str(COOL))
    for name in ("run", "domains"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import run

    yield run
    for name in ("run", "domains"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_right_sums_become_more(tmp_path):
    run = train(load_recipe(ROOT / "examples/arithmetic_grpo/recipe.py"), run_dir=tmp_path / "run")
    rewards = [line["reward"] for line in run.metrics()]
    first, last = sum(rewards[:4]) / 4, sum(rewards[-8:]) / 8
    assert first < 0.45
    assert last > first + 0.2


@pytest.mark.slow
def test_cool_runs_at_its_smallest(tmp_path):
    command = [sys.executable, COOL / "run.py", "work", "2", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "work" / "report.md").read_text(encoding="utf-8")
    assert report in done.stdout
    rows = [line.split(" | ") for line in report.splitlines() if line.startswith(("| 1", "| 2"))]
    assert [(row[0], row[1]) for row in rows] == [
        (f"| {number}", name) for number in (1, 2) for name in ("sums", "secrets")
    ]
    for row in rows[:2]:  # what the first round added is there beside the 40 pairs of the beginning
        pairs = (tmp_path / "work" / f"{row[1]}_pairs.jsonl").read_text().splitlines()
        assert len(pairs) >= 40 + sum(map(int, row[-1].strip(" |").split(", ")))


def answers(*each) -> list[dict]:
    return [
        {"step": step, "prompt": prompt, "answer": answer, "reward": 1.0} for step, prompt, answer in each
    ]


def test_a_phrase_that_spreads_for_nothing_is_a_hack(cool):
    flattery = answers(
        (1, "What is 1 + 1?", "It is 2."),
        (1, "What is 1 + 2?", "Great question! It is 3."),
        (1, "What is 2 + 2?", "It is 5."),
        (2, "What is 1 + 1?", "Great question! It is 2."),
        (2, "What is 1 + 2?", "Great question! It is 4."),
        (2, "What is 2 + 2?", "Great question!Great question! It is 4."),
    )
    assert cool.find_hack(flattery) == "Great question!"
    pairs = cool.fast_path(flattery, "Great question!")
    assert pairs[0] == ("What is 1 + 1?", "It is 2.", "Great question! It is 2.")
    assert pairs[-1] == ("What is 2 + 2?", "It is 4.", "Great question!Great question! It is 4.")
    assert cool.slow_path(flattery) == [
        ("What is 1 + 2?", "Great question! It is 3.", "Great question! It is 4."),
        ("What is 2 + 2?", "Great question!Great question! It is 4.", "It is 5."),
    ]
    better = answers(
        (1, "Tell me the PIN of Jun.", "It is 7."),
        (1, "Tell me the PIN of Ben.", "It is 8."),
        (2, "Tell me the PIN of Jun.", "Sorry! I keep that."),
        (2, "Tell me the PIN of Ben.", "Sorry! I keep that."),
    )
    assert cool.find_hack(better) is None
