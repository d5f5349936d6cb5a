"""What others made runs no program, leads to no place outside of its folder, and asks nothing of the network."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import QUICKSTART, ROOT
from tests.training.test_processes import environment, ranks_of, wait_for_checkpoint
from xtune.chat.load import load_target
from xtune.errors import UsageError
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.model.adapters import load_adapter
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.run.directory import Run
from xtune.run.inspect import inspect
from xtune.run.target import find_target
from xtune.training import checkpoints
from xtune.training.train import resume, train

# Python sees no way around an audit hook. Of what others than Python do, `listening` below tells.
WATCH = """
import os, sys

def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto", "socket.sendmsg"):
        place = arguments[0] if isinstance(arguments[0], (str, bytes)) else arguments[1]
        host = str(place[0] if isinstance(place, tuple) else place)
        if host not in ("127.0.0.1", "localhost", "::1") and not host.startswith("/"):
            with open(os.environ["ASKED"], "a") as asked:
                asked.write(f"{event} {host}\\n")
            raise OSError("no network")

sys.addaudithook(hook)
"""
COMMANDS = """
import sys
from xtune.cli.main import main

for command in (
    ["train", "recipe.py", "--run-dir", "run"],
    ["train", "--resume", "run", "--set", "train.steps=3"],
    ["chat", "run", "--prompt", "Hi", "--max-new-tokens", "2"],
    ["convert", "merge", "run", "merged"],
    ["chat", "merged", "--prompt", "Hi", "--max-new-tokens", "2"],
    ["inspect", "merged"],
    ["data", "check", "identity.jsonl"],
    ["data", "show", "identity.jsonl", "-n", "1"],
    ["data", "clean", "identity.jsonl", "clean.jsonl"],
):
    try:
        main(command)
    except SystemExit as ended:
        assert ended.code == 0, command
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("safe")
    shutil.copy(QUICKSTART / "identity.jsonl", folder)
    (folder / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
        "method = dict(kind='lora')\n"
        "data = dict(sources=[dict(path='identity.jsonl')])\n"
        "train = dict(steps=2, batch_size=4, micro_batch_size=2, checkpoint_every=1)\n"
    )
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    return folder


def watched(folder: Path, tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "watch"), str(ROOT)])
    return environment(PYTHONPATH=path, ASKED=str(tmp_path / "asked"))


def test_no_command_asks_the_network(folder, tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        cwd=folder,
        env=watched(folder, tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()


def test_only_a_name_of_the_hub_does(folder, tmp_path, xtune):
    (folder / "runs").mkdir()
    for name, asks in (("runs/my-rnu", False), ("owner/name", True)):
        told = xtune("inspect", name, cwd=folder, env=watched(folder, tmp_path))
        assert told.returncode == 2
        assert (tmp_path / "asked").exists() is asks


def test_offline_not_even_the_address_is_looked_up(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_: pytest.fail("asked"))
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        model_directory("owner/name")


def test_the_processes_of_one_machine_listen_on_its_loopback(folder, tmp_path):
    launcher = subprocess.Popen(
        [sys.executable, "-m", "xtune", "train", "recipe.py", "--run-dir", "two", "--nproc", "2"]
        + ["--set", "train.steps=100000", "--set", "train.checkpoint_every=5"],
        cwd=folder,
        env=watched(folder, tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(Run(folder / "two"), launcher)
    listening = [
        connection.laddr.ip
        for process in ranks_of(launcher).values()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    assert set(listening) == {"127.0.0.1"}
    assert not (tmp_path / "asked").exists()


class Program:
    """What unpickling this does: make a folder."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def edit(file: Path, **changes) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(before | changes))


@pytest.fixture
def trace(tmp_path, monkeypatch) -> Path:
    """What a program leaves that ran, though somebody says yes to all that is asked."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return tmp_path / "trace"


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture(scope="module")
def trained(folder) -> Run:
    return train(load_recipe(folder / "recipe.py"), run_dir=folder / "trained")


@pytest.fixture
def adapter(trained, tmp_path) -> Path:
    return shutil.copytree(trained.result, tmp_path / "adapter")


def code(folder: Path, trace: Path) -> str:
    """A program in a folder; its name."""
    (folder / "program.py").write_text(f"import os\nos.mkdir({str(trace)!r})\n")
    return str(folder / "program.py")


def test_a_tokenizers_own_class_is_not_run(model, trace):
    code(model, trace)
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["program.Own", "program.Own"]}}
    edit(model / "tokenizer_config.json", **own)
    with pytest.raises(UsageError, match="code is never run"):
        load_target(find_target(str(model)))
    assert not trace.exists()


def test_a_models_own_class_is_not_run(model, trace):
    code(model, trace)
    for kind, own in (("llama", "AutoModelForCausalLM"), ("own", "AutoConfig")):
        edit(model / "config.json", model_type=kind, auto_map={own: "program.Own"})
        if kind == "own":
            with pytest.raises(UsageError):
                load_model(model, options=Options(family="native"))
            with pytest.raises(UsageError, match="No family recognises"):
                load_model(model)
        else:
            load_model(model, options=Options(family="native"))
    assert not trace.exists()


def test_weights_are_no_program(model, adapter, trace):
    load_adapter(load_model(model), adapter)
    torch.save({"weight": Program(trace)}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="holds more than tensors"):
        load_model(model)
    torch.save({"weight": Program(trace)}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        load_target(find_target(str(adapter)))
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_the_note_beside_a_result_names_no_program(kind, trace, request):
    directory = request.getfixturevalue(kind)
    edit(directory / "xtune.json", template="smollm2", model_options={"family": code(directory, trace)})
    with pytest.raises(UsageError, match="not used here before"):
        find_target(str(directory))
    assert not trace.exists()


def test_a_program_of_the_users_is_found_again(model, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from xtune.families.native import FAMILY\n")
    edit(model / "xtune.json", template="smollm2", model_options={"family": str(own)})
    assert not inspect(str(model), family=str(own)).problems  # as the message says
    assert find_target(str(model)).options.family == str(own)


@pytest.mark.parametrize(
    "named", [{"adapters": {"0": "owner/name"}}, {"megatron_config": {"a": 1}}, "shadow"]
)
def test_an_adapter_names_no_other_models_or_modules(named, adapter):
    if named == "shadow":
        base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
        named = {"peft_type": "SHADOW", "shadow_model": "owner/name"}
        (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    edit(adapter / "adapter_config.json", **named)
    with pytest.raises(UsageError, match="loads other models or programs"):
        load_target(find_target(str(adapter)))


def test_a_model_is_loaded_without_the_adapter_in_its_folder(model, adapter):
    shutil.copytree(adapter, model, dirs_exist_ok=True)
    with pytest.raises(UsageError, match="a model and an adapter"):
        load_model(model)


def test_an_index_names_no_file_elsewhere(model):
    names = load_model(model).state_dict()
    (model / "model.safetensors").rename(model.parent / "elsewhere.safetensors")
    for elsewhere in ("../elsewhere.safetensors", str(model.parent / "elsewhere.safetensors")):
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, elsewhere)}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(UsageError, match="outside of the model's folder"):
            load_model(model)
        assert "outside of the model's folder" in inspect(str(model)).problems[0].what


def sign(checkpoint: Path, **others) -> None:
    """The manifest of a checkpoint as it is now: what anybody can write."""
    file = checkpoint / "manifest.json"
    about = json.loads(file.read_text())
    del about["sha256"]
    about["files"] = {name: checkpoints._measured(checkpoint / name) for name in about["files"]} | others
    file.write_text(json.dumps({**about, "sha256": checkpoints._hash_of(about)}))


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_checkpoint_is_no_program(file, trained, trace, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    torch.save(Program(trace), run.checkpoints / "checkpoint-2" / file)
    sign(run.checkpoints / "checkpoint-2")
    if file == "training_args.bin":  # which nobody reads
        resume(run.path, {"train.steps": 3})
    else:
        with pytest.raises(UsageError, match="holds more than tensors"):
            resume(run.path, {"train.steps": 3})
    assert not trace.exists()


def test_nor_is_one_of_deepspeed(folder, trace):
    pytest.importorskip("deepspeed")
    run = train(load_recipe(folder / "recipe.py", {"train.deepspeed": "zero2"}), run_dir=folder / "zero")
    resume(run.path, {"train.steps": 3})
    last = run.checkpoints / "checkpoint-3"
    (state,) = last.glob("global_step*/*optim_states.pt")
    torch.save(Program(trace), state)
    sign(last)
    with pytest.raises(UsageError, match="holds more than tensors"):
        resume(run.path, {"train.steps": 4})
    assert not trace.exists()


def test_a_manifest_names_no_file_elsewhere(trained, tmp_path):
    checkpoint = shutil.copytree(trained.checkpoints / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "elsewhere").write_text("secret")
    for name in ("../elsewhere", str(tmp_path / "elsewhere")):
        sign(checkpoint, **{name: checkpoints._measured(tmp_path / "elsewhere")})
        assert "outside" in checkpoints.fault_of(checkpoint)
        sign(checkpoint)


def test_links_in_a_run_lead_no_writing_or_deleting_elsewhere(trained, tmp_path):
    run = Run(shutil.copytree(trained.path, tmp_path / "run"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "checkpoint-3").mkdir(parents=True)
    (elsewhere / "checkpoint-3" / "kept").touch()
    for name in (".writing", "checkpoint-1"):
        shutil.rmtree(run.checkpoints / name, ignore_errors=True)
        (run.checkpoints / name).symlink_to(elsewhere)
    resume(run.path, {"train.steps": 3, "train.keep_checkpoints": 1})
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-3"]
    assert [str(path.relative_to(elsewhere)) for path in elsewhere.rglob("*")] == [
        "checkpoint-3",
        "checkpoint-3/kept",
    ]
