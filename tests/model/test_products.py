"""What this machine multiplies fastest is measured once and kept."""

import json
import os
import subprocess
import sys

import pytest
import torch

from xtune.model import products
from xtune.model.devices import choose_dtype


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The file of the cache, once measured."""
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path))
    products.core_rates()
    (file,) = (tmp_path / "devices").iterdir()
    return file


def test_measured_once(kept, monkeypatch):
    before, threads = products.core_rates(), torch.get_num_threads()
    assert min(before.values()) > 1e8
    monkeypatch.setattr(products, "_rate", None)  # would fail
    assert products.core_rates() == before
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("damaged", ["", "[]", '{"float32": "?"}'])
def test_a_damaged_file_is_measured_again(kept, damaged):
    kept.write_text(damaged)
    assert min(products.core_rates().values()) > 1e8
    assert json.loads(kept.read_text())["float32"] > 1e8


@pytest.mark.skipif(torch.cuda.is_available(), reason="of CPUs")
@pytest.mark.parametrize(
    ("faster", "chosen"), [(0.5, torch.float32), (1.1, torch.float32), (3, torch.bfloat16)]
)
def test_bfloat16_where_it_is_clearly_faster(kept, faster, chosen):
    kept.write_text(json.dumps({"float32": 1e9, "bfloat16": faster * 1e9}))
    assert choose_dtype("auto") == chosen
    assert choose_dtype("float16") == torch.float16


@pytest.mark.parametrize("told", [None, "1", "64"])
def test_threads_are_counted_as_torch_does(told):
    code = (
        "from xtune.model.devices import threads\n"
        "before = threads()\n"
        "import torch\n"
        "print(before, threads(), torch.get_num_threads())"
    )
    others = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = others | ({"OMP_NUM_THREADS": told} if told else {})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    before, after, torchs = map(int, done.stdout.split())
    assert before == after == torchs
