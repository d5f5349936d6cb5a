"""A merge that finds no room: a message, exit code 4, and nothing left behind."""

from __future__ import annotations

import functools
import os
import resource
import subprocess

import pytest

from xtune.convert.disk import check_place
from xtune.convert.merge import merge
from xtune.errors import ResourceError, UsageError

MEGABYTE = 2**20


@pytest.fixture(scope="module")
def tiny_adapter(make_adapter, tiny_model, tmp_path_factory):
    return make_adapter(tiny_model, tmp_path_factory.mktemp("tiny-adapter"), scale=0.2)


@pytest.fixture
def small_disk(tmp_path, tiny_model):
    """A folder that has room for the weights but not for the tokenizer as well.

    A file system of its own where we may mount one; else a limit on the size of a file, which the weights hit.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    size = (tiny_model / "model.safetensors").stat().st_size + MEGABYTE
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MEGABYTE, limits[1]))
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_place_is_checked_before_anything_is_loaded(tmp_path):
    check_place(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(ResourceError, match=r"1000000000\.00 GB are needed"):
        check_place(tmp_path / "out", 10**18)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Nothing can be written there"):
        check_place(tmp_path / "file" / "out", 1)


def test_disk_fills_up(small_disk, tiny_adapter):
    with pytest.raises(ResourceError, match="The disk is full"):
        merge(tiny_adapter, small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_limit_on_file_size(xtune, tiny_adapter, tmp_path):
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))
    done = xtune("convert", "merge", tiny_adapter, tmp_path / "out", preexec_fn=limit)
    assert done.returncode == 4
    assert "The disk is full" in done.stderr
    assert list(tmp_path.iterdir()) == []
