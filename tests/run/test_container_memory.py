"""A container's limit counts, wherever above the process it is set."""

from __future__ import annotations

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
