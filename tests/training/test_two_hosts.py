"""Two machines, which here are two network namespaces joined by a cable: they train as one does, and when the cable is
cut, or one hangs, both end and say why."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import QUICKSTART
from tests.training.test_processes import agree, environment, ranks_of, wait_for_checkpoint
from xtune.recipe.load import load_recipe
from xtune.run.directory import Run
from xtune.training.checkpoints import newest_checkpoint
from xtune.training.train import train

ADDRESS = "10.93.7.1"
ENDLESS = ["--set", "train.steps=100000", "--set", "train.checkpoint_every=5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "recipe.py").write_text(
        f"model = dict(path={str(tiny_model)!r}, template='smollm2', dtype='float32')\n"
        "method = dict(kind='lora')\n"
        f"data = dict(sources=[dict(path={str(QUICKSTART / 'identity.jsonl')!r})])\n"
        "train = dict(steps=4, batch_size=8, micro_batch_size=4, lr=1e-4, checkpoint_every=2)\n"
    )
    return folder


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts():
    """The names of two network namespaces, in each of which the interface net0 leads to the other."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    names = [f"xtune{number}-{os.getpid()}" for number in (1, 2)]
    try:
        for number, name in enumerate(names, 1):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
            if number == 1:
                ip("-n", name, "link", "add", "net0", "type", "veth", "peer", "name", "net1")
            else:
                ip("-n", names[0], "link", "set", "net1", "netns", name, "name", "net0")
            ip("-n", name, "addr", "add", f"{ADDRESS[:-1]}{number}/24", "dev", "net0")
            for interface in ("lo", "net0"):
                ip("-n", name, "link", "set", interface, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def start(host: str, command: list[str], folder, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["ip", "netns", "exec", host, sys.executable, "-m", *command],
        cwd=folder,
        env=environment(GLOO_SOCKET_IFNAME="net0", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_hosts_train_as_one_does(hosts, folder):
    torchrun = ["torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", ADDRESS]
    command = ["-m", "xtune", "train", "recipe.py", "--run-dir", "two"]
    started = [
        start(host, [*torchrun, "--node-rank", str(number), *command], folder)
        for number, host in enumerate(hosts)
    ]
    for process in started:
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
    agree(train(load_recipe(folder / "recipe.py"), run_dir=folder / "one"), Run(folder / "two"))


@pytest.mark.slow
def test_when_the_cable_is_cut_both_end_within_a_minute(hosts, folder):
    started = [
        start(
            host,
            ["xtune", "train", "recipe.py", "--run-dir", "cut", *ENDLESS],
            folder,
            RANK=str(number),
            LOCAL_RANK="0",
            WORLD_SIZE="2",
            MASTER_ADDR=ADDRESS,
            MASTER_PORT="29400",
        )
        for number, host in enumerate(hosts)
    ]
    wait_for_checkpoint(Run(folder / "cut"), started[0])
    ip("-n", hosts[1], "link", "set", "net0", "down")
    deadline = time.monotonic() + 60
    for number, process in enumerate(started):
        _, told = process.communicate(timeout=deadline - time.monotonic())
        assert process.returncode == 4
        assert f"Rank {1 - number} of 2 has not been heard of for 45 seconds" in told
        assert "Traceback" not in told
    assert newest_checkpoint(Run(folder / "cut").checkpoints)


@pytest.mark.slow
def test_when_one_process_hangs_all_end_within_a_minute(folder):
    command = [sys.executable, "-m", "xtune", "train", "recipe.py", "--run-dir", "hangs", "--nproc", "2"]
    launcher = subprocess.Popen(
        [*command, *ENDLESS], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True
    )
    wait_for_checkpoint(Run(folder / "hangs"), launcher)
    ranks = ranks_of(launcher)
    ranks["1"].send_signal(signal.SIGSTOP)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode == 4
    assert told.count("error:") == 1
    assert "Rank 1 of 2 has not been heard of for 45 seconds" in told
    assert not any(process.is_running() for process in ranks.values())


def join(rank: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """A process of two that waits for the other for two seconds."""
    told = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", **variables}
    code = (
        "from datetime import timedelta\n"
        "from xtune.training import group\n"
        "group.JOINING = timedelta(seconds=2)\n"
        "try:\n"
        "    with group.joined():\n"
        "        pass\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(**told), capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_stays_alone_says_whom_it_waited_for(rank):
    told = join(rank, MASTER_PORT="29417").stdout
    assert told.startswith("ResourceError ")
    assert "did not find each other" in told
    assert f"process {rank} on" in told
    assert "127.0.0.1:29417" in told


def test_a_network_interface_that_is_not_there_is_named():
    told = join(1, MASTER_PORT="29418", GLOO_SOCKET_IFNAME="nowhere0").stdout
    assert told.startswith("UsageError ")
    assert "no network interface nowhere0" in told
    assert "It has lo" in told
