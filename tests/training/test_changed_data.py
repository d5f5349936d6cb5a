"""A run goes on with the data that it began with, or says which file is not the same."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import QUICKSTART
from tests.training.test_sft import largest_difference, weights
from xtune.errors import DataError, UsageError
from xtune.recipe.overrides import parse_overrides
from xtune.recipe.schema import Recipe
from xtune.run.directory import Run
from xtune.training import train as training
from xtune.training.train import resume, train

ROWS = (QUICKSTART / "identity.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.fixture
def run(tiny_model, tmp_path) -> Run:
    """Of a file, a directory of two files and a format of one's own; stopped after its second step."""
    (tmp_path / "one.jsonl").write_text("".join(ROWS[:10]))
    (tmp_path / "many").mkdir()
    for name, rows in (("a", ROWS[10:20]), ("b", ROWS[20:30])):
        (tmp_path / "many" / f"{name}.jsonl").write_text("".join(rows))
    (tmp_path / "own.jsonl").write_text('{"q": "Who are you?", "a": "I am a tiny model."}\n' * 3)
    (tmp_path / "mine.py").write_text(
        "from xtune import Message, Sample\n\n\ndef mine(row):\n"
        "    return Sample([Message('user', row['q']), Message('assistant', row['a'])])\n"
    )
    own = {"path": str(tmp_path / "own.jsonl"), "format": f"{tmp_path / 'mine.py'}:mine"}
    sources = [{"path": str(tmp_path / name)} for name in ("one.jsonl", "many")]
    options = {
        "model": {"path": str(tiny_model), "dtype": "float32", "template": "smollm2"},
        "method": {"kind": "lora"},
        "data": {"sources": [*sources, own]},
        "train": {"steps": 3, "batch_size": 4, "lr": 1e-3, "checkpoint_every": 1},
    }
    run = train(Recipe.model_validate(options), run_dir=tmp_path / "run")
    shutil.rmtree(run.checkpoints / "checkpoint-3")
    return run


def test_it_goes_on_with_the_same_data(run):
    before = weights(run)
    (run.path.parent / "one.jsonl").touch()
    assert largest_difference(weights(resume(run.path)), before) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda folder: (folder / "one.jsonl").write_text("".join(ROWS[1:11])), "one.jsonl has changed ("),
        (lambda folder: (folder / "many" / "b.jsonl").unlink(), "many/b.jsonl is gone"),
        (lambda folder: (folder / "own.jsonl").unlink(), "own.jsonl is gone"),
        (
            lambda folder: shutil.copy(folder / "one.jsonl", folder / "many" / "c.jsonl"),
            "many/c.jsonl is new",
        ),
        (lambda folder: (folder / "mine.py").open("a").write("# other"), "mine.py has changed"),
    ],
)
def test_other_data_is_refused_before_anything_is_loaded(run, monkeypatch, change, told):
    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(training, "prepare", load)
    change(run.path.parent)
    with pytest.raises(DataError, match="not what this run began with") as error:
        resume(run.path)
    assert told in error.value.what
    assert str(run.path.parent) in error.value.what
    with pytest.raises(DataError):
        resume(run.path, {"data.held_out": 0.1})


def test_on_purpose_it_goes_on_with_other_data_and_keeps_to_that(run):
    file = run.path.parent / "one.jsonl"
    file.write_text("".join(ROWS[40:50]))
    with pytest.raises(DataError) as error:
        resume(run.path)
    overrides = parse_overrides([error.value.fix.rpartition("--set ")[2]])
    resume(run.path, overrides)
    shutil.rmtree(run.checkpoints / "checkpoint-3")
    resume(run.path)
    file.write_text("".join(ROWS[:10]))
    with pytest.raises(DataError, match=r"one\.jsonl has changed"):
        resume(run.path)


def test_a_line_that_a_killed_run_began_is_passed_over(run):
    whole = run.metrics()
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    assert run.metrics() == whole
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(UsageError, match="not JSON"):
        run.metrics()
