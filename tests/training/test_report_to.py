"""train.report_to: the figures of a run in other programs."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtune.errors import UsageError
from xtune.training.report_to import check_report_to
from xtune.training.train import resume, train


def read_back(run) -> EventAccumulator:
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_has_what_metrics_jsonl_has_also_after_going_on(tiny_recipe, tmp_path):
    run = train(tiny_recipe(steps=2, report_to=["tensorboard"]), run_dir=tmp_path / "run")
    run = resume(run.path, {"train.steps": 3})
    events = read_back(run)
    for name in ("loss", "grad_norm", "lr", "tokens_per_second"):
        kept = [(one.step, one.value) for one in events.Scalars(name)]
        expected = [(line["step"], line[name]) for line in run.metrics()]
        assert [step for step, _ in kept] == [step for step, _ in expected] == [1, 2, 3]
        assert [value for _, value in kept] == pytest.approx([value for _, value in expected])
    held_out = [(one.step, one.value) for one in events.Scalars("held_out/loss")]
    assert held_out == [(line["step"], pytest.approx(line["loss"])) for line in run.held_out()]


def test_a_missing_package_is_told_before_anything_is_loaded(tiny_recipe, tmp_path, monkeypatch):
    from xtune.training import train as module

    monkeypatch.setattr("xtune.training.report_to.find_spec", lambda _: None)
    monkeypatch.setattr(module, "tokenizer_and_template", lambda *_: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=r"swanlab is not installed") as told:
        train(tiny_recipe(report_to=["swanlab"]), run_dir=tmp_path / "run")
    assert told.value.fix == "pip install 'xtune[swanlab]'"
    assert not (tmp_path / "run").exists()
    check_report_to([])


def test_neither_a_program_that_fails_nor_a_report_that_cannot_be_written_fails_a_run(
    tiny_recipe, tmp_path, monkeypatch, capsys
):
    def broken(*_, **__):
        raise OSError("no connection")

    trackio = SimpleNamespace(init=lambda **_: SimpleNamespace(log=broken, finish=broken))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    monkeypatch.setattr("xtune.training.report_to.find_spec", lambda name: name)
    monkeypatch.setattr("xtune.training.ending.write_report", broken)
    run = train(tiny_recipe(steps=2, report_to=["trackio"]), run_dir=tmp_path / "run")
    assert len(run.metrics()) == 2
    assert run.result
    said = capsys.readouterr().err.splitlines()
    told = [line for line in said if "trackio" in line or "report" in line]
    assert told == [
        "trackio keeps no log of this run from here on: no connection",
        "report   not written: no connection",
    ]
