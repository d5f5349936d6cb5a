"""Training in several processes is training in one; and when one of them fails, all end and say why once."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from click.testing import CliRunner

from tests.conftest import QUICKSTART
from tests.training.test_sft import largest_difference, weights
from xtune.cli.train import train as train_command
from xtune.errors import RecipeError, UsageError
from xtune.recipe.load import load_recipe
from xtune.recipe.overrides import parse_overrides
from xtune.recipe.schema import Train
from xtune.run.directory import Run
from xtune.training import checkpoints
from xtune.training.checkpoints import newest_checkpoint, processes_of
from xtune.training.train import prepare, resume
from xtune.training.train import train as train_here

ZERO3 = {
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    "train_batch_size": "auto",
}
"""Spreads even what is small, as ours would spread a large model's weights."""
FULL = "method.kind='full'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    """Where recipe.py is: six steps, of eight samples in two forward passes."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
        "method = dict(kind='lora')\n"
        f"data = dict(sources=[dict(path={str(QUICKSTART / 'identity.jsonl')!r})], held_out=0.1)\n"
        "train = dict(steps=6, batch_size=8, micro_batch_size=4, lr=1e-4, checkpoint_every=2, keep_checkpoints=9)\n"
        "probe = dict(prompts=['Hi'], max_new_tokens=4)\n"
    )
    (folder / "zero3.json").write_text(json.dumps(ZERO3))
    return folder


@pytest.fixture(scope="module")
def train(xtune, folder):
    """train(name, *overrides, nproc=2) is a run; the same one when asked again."""
    done = {}

    def run(name: str, *overrides: str, nproc: int = 2) -> Run:
        if name not in done and nproc == 1:
            overrides = parse_overrides([*overrides])
            done[name] = train_here(load_recipe(folder / "recipe.py", overrides), run_dir=folder / name)
        if name not in done:
            options = [part for override in overrides for part in ("--set", override)]
            ended = xtune(
                "train",
                "recipe.py",
                "--run-dir",
                name,
                "--nproc",
                nproc,
                *options,
                cwd=folder,
                env=environment(),
            )
            assert ended.returncode == 0, ended.stderr
            done[name] = Run(folder / name)
        return done[name]

    return run


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def losses(run: Run) -> list[float]:
    return [line["loss"] for line in run.metrics()]


def agree(one: Run, other: Run) -> None:
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    assert largest_difference(weights(one), weights(other)) < 1e-5


def without_last_steps(run: Run, name: str, step: int) -> Run:
    """A copy of a run that was stopped after a step."""
    copy = Run(run.path.with_name(name))
    shutil.copytree(run.path, copy.path)
    shutil.rmtree(copy.result)
    for checkpoint in copy.checkpoints.iterdir():
        if int(checkpoint.name.rpartition("-")[2]) > step:
            shutil.rmtree(checkpoint)
    return copy


def test_two_processes_train_as_one_does_and_one_goes_on_from_two(train):
    one, two = train("one", nproc=1), train("two")
    agree(one, two)
    assert [line["tokens"] for line in two.metrics()] == [line["tokens"] for line in one.metrics()]
    held_out = [
        [json.loads(line)["loss"] for line in (run.path / "held_out.jsonl").read_text().splitlines()]
        for run in (one, two)
    ]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    agree(one, resume(without_last_steps(two, "two-then-one", 2).path))


@pytest.mark.parametrize(
    ("name", "options", "method"),
    [
        ("zero3-lora", ["train.deepspeed=zero3.json"], "lora"),
        pytest.param("zero2-full", ["train.deepspeed=zero2", FULL], "full", marks=pytest.mark.slow),
        pytest.param("zero3-full", ["train.deepspeed=zero3.json", FULL], "full", marks=pytest.mark.slow),
        pytest.param("fsdp-lora", ["train.fsdp=True"], "lora", marks=pytest.mark.slow),
        pytest.param("sharing-lora", ["train.sequence_parallel=2"], "lora", marks=pytest.mark.slow),
        pytest.param(
            "sharing-full",
            ["train.sequence_parallel=2", "train.fsdp=True", FULL],
            "full",
            marks=pytest.mark.slow,
        ),
        pytest.param("fsdp-full", ["train.fsdp=True", FULL], "full", marks=pytest.mark.slow),
    ],
)
def test_spread_weights_train_alike(train, name, options, method):
    alone = train("one", nproc=1) if method == "lora" else train("one-full", FULL, nproc=1)
    spread = train(name, *options)
    agree(alone, spread)
    if "deepspeed" in options[0]:
        assert "auto" not in (spread.path / "deepspeed.json").read_text()
    if "train.fsdp=True" in options:  # of which accelerate says nothing where it leaves it out
        assert (spread.checkpoints / "checkpoint-6" / "pytorch_model_fsdp.bin").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("name", ["two", "zero2-full", "zero3-lora", "fsdp-lora"])
def test_a_checkpoint_of_two_goes_on_in_any_number(train, xtune, folder, name, processes):
    options = {
        "two": [],
        "zero2-full": ["train.deepspeed=zero2", FULL],
        "zero3-lora": ["train.deepspeed=zero3.json"],
        "fsdp-lora": ["train.fsdp=True"],
    }
    whole = train(name, *options[name])
    cut = without_last_steps(whole, f"{name}-{processes}", 2)
    ended = xtune("train", "--resume", cut.path, "--nproc", processes, cwd=folder, env=environment())
    assert ended.returncode == 0, ended.stderr
    agree(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero3-lora", "zero3-full"])
def test_a_checkpoint_converts_to_what_the_run_left(train, xtune, folder, name):
    run = train(name, "train.deepspeed=zero3.json", *([FULL] if name == "zero3-full" else []))
    out = folder / f"{name}-out"
    ended = xtune("convert", "checkpoint", run.checkpoints / "checkpoint-6", out, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    names = sorted(path.name for path in run.result.iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for path in out.glob("*.safetensors"):
        assert path.read_bytes() == (run.result / path.name).read_bytes()


def wait_for_checkpoint(run: Run, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not newest_checkpoint(run.checkpoints):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def ranks_of(launcher: subprocess.Popen) -> dict[str, psutil.Process]:
    """The processes that a launcher started, by RANK."""
    return {process.environ()["RANK"]: process for process in psutil.Process(launcher.pid).children()}


def test_when_one_process_is_killed_all_end_with_one_message(folder):
    command = [sys.executable, "-m", "xtune", "train", "recipe.py", "--run-dir", "killed", "--nproc", "2"]
    more = ["--set", "train.steps=2000", "--set", "train.checkpoint_every=5", "--set", "data.held_out=0"]
    launcher = subprocess.Popen(
        [*command, *more], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    run = Run(folder / "killed")
    wait_for_checkpoint(run, launcher)
    ranks = ranks_of(launcher)
    ranks["1"].send_signal(signal.SIGKILL)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 4
    assert told.count("error:") == 1
    assert "Rank 1 of 2 was killed (SIGKILL)" in told
    assert "xtune train --resume killed --nproc 2" in told
    assert not any(process.is_running() for process in ranks.values())
    assert newest_checkpoint(run.checkpoints)


@pytest.mark.parametrize(
    "sent", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_launcher_that_ends_leaves_nothing(train, folder, tmp_path, sent):
    run = without_last_steps(train("two"), f"launcher-{sent}", 2)
    command = [sys.executable, "-m", "xtune", "train", "--resume", run.path.name, "--nproc", "2"]
    launcher = subprocess.Popen(
        command, cwd=folder, env=environment(TMPDIR=str(tmp_path)), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(processes := psutil.Process(launcher.pid).children()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    launcher.send_signal(sent)
    _, told = launcher.communicate(timeout=60)
    assert not psutil.wait_procs(processes, timeout=30)[1]
    if sent != signal.SIGKILL:
        assert launcher.returncode == 128 + sent
        assert f"xtune train --resume {run.path.name} --nproc 2" in told
        assert not list(tmp_path.iterdir())
    assert run.result is None


def in_ranks(numbers: str, folder, code: str) -> dict[str, str]:
    """An environment in which processes of these ranks begin with this code."""
    (folder / "sitecustomize.py").write_text(
        f'import os\nif os.environ.get("RANK", "none") in {numbers!r}:\n    {code}\n'
    )
    return environment(PYTHONPATH=str(folder))


def test_debug_shows_where_a_process_failed(folder, tmp_path, xtune):
    broken = in_ranks("01", tmp_path, "import sys; sys.modules['xtune.training.start'] = None")
    ended = xtune(
        "--debug", "train", "recipe.py", "--run-dir", "broken", "--nproc", 2, cwd=folder, env=broken
    )
    assert ended.returncode == 1
    assert "from xtune.training.start import" in ended.stderr
    assert not (folder / "broken").exists()


def test_a_process_that_waits_for_one_that_failed_says_nothing(tmp_path):
    (tmp_path / "fail.py").write_text(
        "from xtune.errors import DataError\n"
        "from xtune.ranks import rank\n"
        "from xtune.training.group import joined, reporting\n"
        "with reporting(), joined():\n"
        "    if rank() == 0:\n"
        "        raise DataError('Nothing.')\n"
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "fail.py"],
            cwd=tmp_path,
            env=environment(RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    told = [process.communicate(timeout=60)[1] for process in ranks]
    assert "Rank 0 of 2: Nothing." in told[0]
    assert (told[1], ranks[1].returncode) == ("", 4)


def test_a_dry_run_counts_the_processes(folder):
    options = ["--nproc", "2", "--dry-run", "--set", "train.sequence_parallel=2"]
    ended = CliRunner().invoke(train_command, [str(folder / "recipe.py"), *options])
    assert ended.exit_code == 0, ended.output
    assert "in 2 processes" in ended.output


def break_saving(patch, step: int) -> None:
    """Fail at the checkpoint of a step, after transformers has written it and before the manifest is."""
    make_whole = checkpoints._make_whole

    def fail(checkpoint, *arguments):
        if checkpoint.name == f"checkpoint-{step}":
            raise OSError("broken")
        make_whole(checkpoint, *arguments)

    patch.setattr(checkpoints, "_make_whole", fail)


def test_a_checkpoint_is_kept_until_the_next_is_whole(folder, monkeypatch):
    recipe = load_recipe(folder / "recipe.py", {"train.keep_checkpoints": 1})
    with monkeypatch.context() as patch:
        break_saving(patch, 4)
        with pytest.raises(OSError, match="broken"):
            train_here(recipe, run_dir=folder / "one-kept")
    run = Run(folder / "one-kept")
    assert newest_checkpoint(run.checkpoints).name == "checkpoint-2"
    resume(run.path)
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-6"]


def test_a_failed_run_with_deepspeed_does_not_stop_the_next(train, folder, monkeypatch):
    zero1 = {"train.deepspeed": "zero1"}
    with monkeypatch.context() as patch:
        break_saving(patch, 2)
        with pytest.raises(OSError, match="broken"):
            train_here(load_recipe(folder / "recipe.py", zero1), run_dir=folder / "failed")
    for name, options in (("zero1-again", zero1), ("without", {})):
        run = train_here(load_recipe(folder / "recipe.py", options), run_dir=folder / name)
        agree(train("one", nproc=1), run)


def test_only_adamw_goes_on_with_another_number_under_deepspeed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"zero": 1, "processes": 2}')
    assert processes_of(tmp_path, Train(deepspeed="zero1")) == 2
    with pytest.raises(UsageError, match="lion") as told:
        processes_of(tmp_path, Train(deepspeed="zero1", optimizer="lion"))
    assert "--nproc 2" in told.value.fix


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_all(folder, tmp_path, xtune):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, -1))"
    soon = "import resource; from xtune.training import full_disk; full_disk.PAUSE = 0.1"
    ended = xtune(
        "train",
        "recipe.py",
        "--run-dir",
        "full",
        "--nproc",
        2,
        cwd=folder,
        env=in_ranks("01", tmp_path, f"{soon}; os.environ['RANK'] == '1' and {limit}"),
    )
    assert ended.returncode == 4
    assert ended.stderr.count("error:") == 1
    assert "Rank 1 of 2: The disk is full" in ended.stderr


@pytest.mark.slow
def test_processes_with_different_data_do_not_train(folder, tmp_path, tiny_model, xtune):
    for name, lines in (("here", 80), ("there", 79)):
        (tmp_path / name).mkdir()
        text = (folder / "recipe.py").read_text().replace(str(QUICKSTART / "identity.jsonl"), "data.jsonl")
        (tmp_path / name / "recipe.py").write_text(text)
        data = (QUICKSTART / "identity.jsonl").read_text().splitlines(keepends=True)[:lines]
        (tmp_path / name / "data.jsonl").write_text("".join(data))
    elsewhere = in_ranks("1", tmp_path, f"os.chdir({str(tmp_path / 'there')!r})")
    ended = xtune(
        "train", "recipe.py", "--run-dir", "run", "--nproc", 2, cwd=tmp_path / "here", env=elsewhere
    )
    assert ended.returncode == 2
    assert ended.stderr.count("error:") == 1
    assert "Rank 1 of 2" in ended.stderr
    assert "data " in ended.stderr
    assert not (tmp_path / "here" / "run").exists()


@pytest.mark.slow
def test_under_torchrun_it_trains_the_same(train, folder):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "xtune", "train", "recipe.py", "--run-dir", "torchrun"]
    ended = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("result ") == 1
    agree(train("two"), Run(folder / "torchrun"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"train.deepspeed": "zero2", "train.fsdp": True}, "give one of them"),
        ({"train.deepspeed": "zero1", "train.optimizer": "adafactor"}, "needs whole matrices"),
        ({"train.fsdp": True, "train.optimizer": "adamw_8bit"}, 'state of "adamw" only'),
        ({"train.fsdp": True, "method.init": "pissa"}, 'init = "pissa" does not go with FSDP'),
        ({"train.fsdp": True, "model.added_tokens": ["<x>"]}, "rows of single tokens"),
        ({"train.deepspeed": "zero3_offload", "train.optimizer": "paged_adamw_8bit"}, "on the CPU"),
    ],
)
def test_what_cannot_be_spread_is_refused(folder, options, reason):
    with pytest.raises(RecipeError, match=reason):
        load_recipe(folder / "recipe.py", options)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ('{"zero_optimization": 3}', "has to be an object"),
        ('{"zero_optimization": {"stag": 3}}', "stag"),
        ('{"optimizer": {"type": "Adam"}}', "The recipe says optimizer"),
        ('{"gradient_clipping": 3}', "gradient_clipping 3, not 1.0"),
    ],
)
def test_a_deepspeed_file_that_disagrees_is_refused_before_training(folder, tmp_path, content, reason):
    (tmp_path / "zero.json").write_text(content)
    recipe = load_recipe(folder / "recipe.py", {"train.deepspeed": str(tmp_path / "zero.json")})
    with pytest.raises(RecipeError, match=reason) as told:
        prepare(recipe)
    assert "zero.json" in str(told.value)
