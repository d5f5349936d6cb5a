"""Importing transformers and peft."""

import subprocess
import sys

CODE = """
import sys, torch
compiled = torch.compile
from xtune.model.libraries import import_libraries
import_libraries()
assert torch.compile is compiled
assert "torch._inductor.compile_fx" not in sys.modules  # which takes a second
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
weight = torch.randn(64, 64)
again = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4"))
assert (weight - again).abs().mean() < 0.1
"""


def test_nothing_is_compiled_before_it_is_called():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
