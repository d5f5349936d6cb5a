"""What memory there is, and what was taken: a container's limit counts, wherever above the process it is set."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from xtune.run.memory import container_memory, free_memory


@pytest.fixture
def groups(tmp_path):
    """A cgroup v2 file system: a pod with a limit, and a container in it."""

    def group(folder, limit, used, cached):
        folder.mkdir()
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\n")

    (tmp_path / "root").mkdir()
    group(tmp_path / "root" / "pod", 1000, 700, 200)
    group(tmp_path / "root" / "pod" / "container", "max", 600, 100)
    (tmp_path / "cgroup").write_text("0::/pod/container\n")
    return tmp_path


def test_limits_of_all_groups_above(groups):
    assert container_memory(groups / "root", groups / "cgroup") == [500]
    (groups / "root" / "pod" / "container" / "memory.max").write_text("550")
    assert container_memory(groups / "root", groups / "cgroup") == [50, 500]
    (groups / "root" / "pod" / "container" / "memory.max").write_text("400")  # lowered below what is used
    assert container_memory(groups / "root", groups / "cgroup") == [0, 500]


def test_without_groups(groups):
    (groups / "cgroup").write_text("4:memory:/process\n")  # version 1
    assert container_memory(groups / "root", groups / "cgroup") == []
    assert container_memory(groups / "root", groups / "missing") == []
    assert free_memory(torch.device("cpu")) > 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux tells it")
def test_the_peak_of_a_process_is_not_that_of_what_started_it():
    code = (
        "import subprocess, sys\n"
        "large = bytearray(1 << 29)\n"
        "large[::4096] = b'x' * len(large[::4096])\n"
        "told = 'from xtune.run.memory import largest_resident_size; print(largest_resident_size())'\n"
        "subprocess.run([sys.executable, '-c', told], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**22 < int(done.stdout) < 2**28
