"""`xtune doctor`: of runs made bad on purpose it names the cause, of a good one it says nothing; and the machine."""

import dataclasses
import re
import shutil

import pytest

from xtune.cli.main import main
from xtune.recipe.schema import Recipe
from xtune.run import machine
from xtune.run.doctor import diagnose
from xtune.run.doctor_causes import CAUSES
from xtune.run.doctor_seen import SEEN
from xtune.run.machine import Item
from xtune.run.summary import Facts, read_facts


@pytest.fixture
def first(runs) -> Facts:
    return read_facts(runs / "first")


def told(facts: Facts) -> list[str]:
    """What is told of a run, each with figures."""
    found = diagnose(facts)
    findings = [*found.seen, *found.causes]
    assert all(re.search(r"\d|\"|:", finding.evidence) for finding in findings)
    return [finding.what for finding in findings]


def with_recipe(facts: Facts, **sections) -> Facts:
    """The same, of a recipe with other options: train=dict(lr=1)."""
    raw = facts.recipe.model_dump()
    for name, options in sections.items():
        raw[name] |= options
    return dataclasses.replace(facts, recipe=Recipe.model_validate(raw))


def with_lines(facts: Facts, change) -> Facts:
    """The same, each line of which has also what change(number from 0, how many) gives."""
    lines = [{**line, **change(number, len(facts.lines))} for number, line in enumerate(facts.lines)]
    return dataclasses.replace(facts, lines=lines)


def with_answers(facts: Facts, answer) -> Facts:
    return dataclasses.replace(facts, probes=[{**row, "after": answer(row)} for row in facts.probes])


def with_data(facts: Facts, **figures) -> Facts:
    return dataclasses.replace(facts, data={**facts.data, **figures})


def test_nothing_stands_out_in_a_good_run(first):
    assert told(first) == []


def test_a_rate_a_thousand_times_too_low_is_named(runs):
    found = diagnose(read_facts(runs / "second"))
    assert "The loss did not fall." in [finding.what for finding in found.seen]
    cause = found.causes[0]
    assert cause.what == "The learning rate is far below the usual."
    assert "1e-06" in cause.evidence
    assert cause.advice == "--set train.lr=0.0002"


def histogram(share):
    return {"a reason": {"count": int(80 * share), "places": []}}


BAD = {
    "The run was killed.": lambda run: dataclasses.replace(run, state={**run.state, "state": "killed"}),
    "Steps were skipped.": lambda run: with_lines(
        run, lambda n, _: {"skipped": "loss nan", "loss": None} if n == 9 else {}
    ),
    "The loss did not fall.": lambda run: dataclasses.replace(
        with_lines(run, lambda n, _: {"loss": 3 + n % 2 / 9}), held_out=[]
    ),
    "The loss rose.": lambda run: with_lines(run, lambda n, _: {"loss": 3.0 + n}),
    "The reward did not rise.": lambda run: with_lines(run, lambda *_: {"reward": 0.5, "reward_std": 0.2}),
    "The loss fell, and rose again.": lambda run: with_lines(
        run, lambda n, of: {"loss": 1 + abs(n - of / 2) / of}
    ),
    "The loss has spikes.": lambda run: with_lines(run, lambda n, _: {"loss": 9.0} if n == 15 else {}),
    "Good and bad answers are not told apart.": lambda run: with_lines(
        run, lambda *_: {"rewards/accuracy": 0.5}
    ),
    "Answers go round in circles.": lambda run: with_answers(run, lambda row: "I am. " * 9 + row["prompt"]),
    "All probes get the same answer.": lambda run: with_answers(run, lambda _: "Yes."),
    "Training changed no answer.": lambda run: with_answers(run, lambda row: row["before"]),
    "The learning rate is far above the usual.": lambda run: with_recipe(run, train={"lr": 0.1}),
    "It learns its samples by heart.": lambda run: dataclasses.replace(
        run, held_out=[{"step": 0, "loss": 3.0}, {"step": 9, "loss": 1.0}, {"step": 30, "loss": 1.4}]
    ),
    "The loss fell to almost 0: the samples may be learnt by heart.": lambda run: dataclasses.replace(
        with_lines(run, lambda n, _: {"loss": 3.0 / (1 + n**2)}), held_out=[]
    ),
    "The gradients are almost 0.": lambda run: with_lines(run, lambda *_: {"grad_norm": 1e-6}),
    "The gradients are large, and clipped all the time.": lambda run: with_lines(
        run, lambda *_: {"grad_norm": 50.0}
    ),
    "There are few steps.": lambda run: dataclasses.replace(run, lines=run.lines[:3]),
    "Few of the tokens carry loss.": lambda run: with_data(run, tokens=10_000, tokens_with_loss=100),
    "Much of the data was rejected.": lambda run: with_data(run, rejected=40, rejections=histogram(0.5)),
    "Many samples were too long, and were cut.": lambda run: with_data(
        run, repairs={"longer than max_length (512 tokens): last turns left out": {"count": 30, "places": []}}
    ),
    "Many records are the same.": lambda run: with_data(
        run, notes={"the same as an earlier record": {"count": 30, "places": []}}
    ),
    "The chat template is not the checkpoint's own.": lambda run: dataclasses.replace(
        run, state={**run.state, "template_difference": "own: <s>, this: none"}
    ),
    "The base is in float16, in which large values become infinite.": lambda run: with_recipe(
        run, model={"dtype": "float16"}
    ),
    "It became slow.": lambda run: with_lines(
        run, lambda n, of: {"tokens_per_second": 100 if n < of / 2 else 10}
    ),
    "The answers to a prompt mostly score the same.": lambda run: with_lines(
        run, lambda n, _: {"reward": n / 30, "reward_std": 0}
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_told(first, what):
    assert what in told(BAD[what](first))


def test_every_rule_is_tried(first):
    """All but two, which need a result or all of a model's weights: see below."""
    fired = {
        rule.__name__
        for change in BAD.values()
        for rule in (*SEEN, *CAUSES)
        if rule(change(first)) is not None
    }
    rules = {rule.__name__ for rule in (*SEEN, *CAUSES)}
    assert rules - fired == {"answers_do_not_end", "full_training_of_little_data"}


def test_an_answer_that_does_not_end_is_told_by_its_tokens(runs, tokenizer):
    (runs / "first" / "adapter").mkdir()
    tokenizer.save_pretrained(runs / "first" / "adapter")
    first = read_facts(runs / "first")
    assert "Answers do not end." not in told(first)
    assert "Answers do not end." in told(with_answers(first, lambda _: "one two three four " * 12))


def run_of(recipe, folder) -> Facts:
    from xtune.training.train import train

    return read_facts(train(recipe, run_dir=folder).path)


@pytest.mark.slow
def test_real_runs_made_bad_on_purpose(tiny_recipe, tmp_path):
    still = told(run_of(tiny_recipe(steps=12, lr=1e-7, checkpoint_every=6), tmp_path / "still"))
    assert {"The loss did not fall.", "The learning rate is far below the usual."} <= {*still}
    wild = told(run_of(tiny_recipe(steps=12, lr=1.0, checkpoint_every=6), tmp_path / "wild"))
    assert "The learning rate is far above the usual." in wild
    assert "It learns its samples by heart." not in wild
    assert {
        "The loss rose.",
        "The loss has spikes.",
        "The gradients are large, and clipped all the time.",
    } & {*wild}
    heart = told(run_of(tiny_recipe(steps=150, lr=1e-2, checkpoint_every=50), tmp_path / "heart"))
    assert "It learns its samples by heart." in heart
    assert "All weights are trained on little data, many times over." in heart


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return ended.value.code


def test_a_run_that_is_well_gets_one_line(runs, capsys):
    assert command("doctor", "runs/first") == 0
    assert capsys.readouterr().out == "Nothing stands out in runs/first.\n"
    assert command("doctor", "runs/nowhere") == 2
    assert "There is no run" in capsys.readouterr().err


def test_this_machine_is_well(capsys):
    assert command("doctor") == 0
    out = capsys.readouterr().out
    for word in (
        "Python",
        "torch",
        "memory",
        "free",
        "GFLOP/s",
        "float32",
        "smollm2",
        "deepspeed",
        "XTUNE_HOME",
    ):
        assert word in out


def test_what_is_missing_is_told_with_the_command_that_installs_it(monkeypatch, capsys):
    declared = ["torch>=99", "no-such-package>=1; extra == 'web'"]
    monkeypatch.setattr(machine, "_declared", lambda: declared)
    sections = machine.look()
    assert (
        Item("web", "xtune web: without no-such-package", "missing", "pip install 'xtune[web]'")
        in sections["features"]
    )
    assert command("doctor") == 4
    out, err = capsys.readouterr()
    assert "pip install 'torch>=99'" in out
    assert "Broken: torch." in err


def test_a_machine_without_a_compiler_is_told_what_it_costs(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    (compiler,) = [item for item in machine.look()["machine"] if item.name == "C compiler"]
    assert compiler.state == "missing"
    assert "gcc" in compiler.fix
