"""`xtune runs`: lists of runs, and comparing them; the state a run is in."""

import fcntl
import json
import shutil
import signal
import subprocess
import sys

import pytest

from tests.run.conftest import rewrite
from xtune.cli.main import main
from xtune.run import state
from xtune.run.compare import differences, names
from xtune.run.directory import Run
from xtune.run.summary import find_runs, read_facts, read_recipe, summarise


@pytest.fixture
def say(capsys):
    """say("runs", ...) gives exit code, stdout and stderr of the command."""

    def command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return command


def test_listed_by_time_with_their_figures(runs, say):
    code, out, _ = say("runs")
    assert code == 0
    lines = [line.split() for line in out.splitlines() if "smollm2" in line]
    assert [line[0] for line in lines] == ["first", "second"]
    rewrite(
        runs / "first" / "environment.json", lambda found: {**found, "started": "2999-01-01T00:00:00+00:00"}
    )
    code, out, _ = say("runs", "runs", "--json")
    found = json.loads(out)
    assert [run["name"] for run in found] == ["second", "first"]
    lines = Run(runs / "first").metrics()
    assert found[1]["steps"] == lines[-1]["step"] == found[1]["of"]
    assert found[1]["state"] == "finished"
    assert found[1]["first"] > 3 > 1 > found[1]["last"]
    assert found[1]["held_out_last"] == Run(runs / "first").held_out()[-1]["loss"]
    assert found[1]["bytes"] == sum(file.stat().st_size for file in (runs / "first").iterdir())


def test_what_is_no_run_is_named_and_passed_over(runs, say):
    (runs / "notes").mkdir()
    shutil.copytree(runs / "first", runs / "damaged")
    (runs / "damaged" / "recipe.py").write_text("model = dict(")
    shutil.copytree(runs / "first", runs / "torn")
    (runs / "torn" / "metrics.jsonl").write_bytes(b"\xff\n[1]\n")
    code, out, err = say("runs", "--json")
    assert code == 0
    assert {run["name"] for run in json.loads(out)} == {"first", "second", "torn"}
    for name in ("notes", "damaged", "torn"):
        assert f"runs/{name}" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["none"],
        ["compare", "runs/first"],
        ["compare", "runs/first", "no"],
        ["report", "no"],
        ["compare", "runs/first", "runs/second", "--out", "no/where.html"],
    ],
)
def test_errors_say_what_to_do(runs, say, arguments):
    code, out, err = say("runs", *arguments)
    assert (code, out) == (2, "")
    assert "no" in err or "Name 2 to" in err


def test_recipes_of_runs_are_read_and_never_run(runs, tmp_path):
    file = runs / "first" / "recipe.py"
    file.write_text(file.read_text() + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    assert read_recipe(Run(runs / "first")).train.lr == 1e-3
    assert not (tmp_path / "ran").exists()


def test_a_run_is_running_while_its_lock_is_held(runs):
    run = Run(runs / "first")
    assert state.read(run)["state"] == "finished"
    with open(run.path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert state.read(run)["state"] == "running"
    state.begin(run, steps=5)
    assert state.read(run)["state"] == "killed"


def test_lists_need_no_torch(runs):
    program = (
        "import sys; from xtune.cli.main import cli; cli(sys.argv[1:], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, "runs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_what_differs_between_recipes_is_told(runs):
    facts = [read_facts(runs / name) for name in ("first", "second")]
    assert differences([one.recipe for one in facts]) == [("train.lr", ["0.001", "1e-06"])]
    assert differences([facts[0].recipe] * 2) == []


def test_runs_of_one_name_are_told_apart(runs):
    shutil.copytree(runs / "first", runs / "again" / "first")
    assert names([read_facts(runs / "first"), read_facts(runs / "again" / "first")]) == [
        "runs/first",
        "again/first",
    ]
    same = [read_facts(runs / "first")] * 2
    assert len(names(same)) == 2


def test_comparing_writes_their_curves(runs, say, tmp_path):
    code, out, _ = say("runs", "compare", "runs/first", "runs/second", "--out", tmp_path / "both.html")
    assert code == 0
    assert "train.lr" in out
    page = (tmp_path / "both.html").read_text()
    assert page.count('<path class="run-0"') == page.count('<path class="run-1"') >= 3
    assert "0.001" in page


def test_figures_that_are_not_finite_are_left_out(runs):
    file = runs / "first" / "metrics.jsonl"
    lines = [
        {**json.loads(line), "loss": None, "skipped": "loss nan"} for line in file.read_text().splitlines()
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = summarise(read_facts(runs / "first"))
    assert (found.first, found.last, found.skipped) == (None, None, len(lines))
    assert find_runs(runs)[1] == []


def test_a_finished_run_has_state_and_report_and_tells_no_other_program(tiny_recipe, tmp_path, monkeypatch):
    from xtune.training import trainer
    from xtune.training.train import train

    seen = []
    arguments = trainer.TrainingArguments
    monkeypatch.setattr(
        trainer, "TrainingArguments", lambda **given: seen.append(given) or arguments(**given)
    )
    run = train(tiny_recipe(steps=4), run_dir=tmp_path / "run")
    facts = read_facts(run.path)
    assert facts.state["state"] == "finished"
    assert (facts.state["steps"], facts.state["dtype"]) == (4, "float32")
    assert '"state finished">finished<' in (run.path / "report.html").read_text()
    assert [given["report_to"] for given in seen] == [[]]
    assert {path.name for path in run.path.iterdir() if path.is_dir()} == {"checkpoints", "model"}


@pytest.mark.slow
def test_a_stopped_and_a_failed_run_say_why(tiny_recipe, tmp_path):
    from xtune.recipe.write import recipe_source

    recipe = tmp_path / "recipe.py"
    recipe.write_text(recipe_source(tiny_recipe(steps=5000)))
    command = [sys.executable, "-m", "xtune", "train", str(recipe), "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.startswith("held out: loss"):
                break
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    found = read_facts(tmp_path / "run")
    assert found.state["state"] == "stopped"
    assert "SIGTERM" in found.state["why"]
    assert '"state stopped">stopped<' in (tmp_path / "run" / "report.html").read_text()

    from xtune.errors import TrainingError
    from xtune.training.train import train

    with pytest.raises(TrainingError):
        train(tiny_recipe(steps=60, lr=1e30, max_grad_norm=1e30), run_dir=tmp_path / "diverged")
    found = read_facts(tmp_path / "diverged")
    assert found.state["state"] == "failed"
    assert "finite" in found.state["why"] or "0" in found.state["why"]
