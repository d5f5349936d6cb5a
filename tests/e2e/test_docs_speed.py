"""docs/speed.md: its kernels are those of the schema, its figures those of the benchmark."""

import json
import re
from typing import get_args

from tests.conftest import ROOT
from xtune.recipe.schema import Kernel

PAGE = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
ON_GPU, ON_CPU = PAGE.split("Two CPU cores")


def test_every_kernel_is_explained():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M) == list(get_args(Kernel))


def test_figures_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks/results/gpu_speed.json").read_text())
    peak = max(results["product_tflops"])
    for row, tool in (("xtune", "xtune-{}"), ("TRL", "trl-{}-nogc"), ("unsloth", "unsloth-{}-nogc")):
        expected = []
        for method in ("lora", "qlora"):
            one = results["results"][tool.format(method)]["short"]
            expected += [f"{one['tokens_per_s']:,.0f}", f"{one['tflops'] / peak:.0%}".replace("%", " %")]
            expected += [f"{one['allocated_gb']:.1f} GB"]
        (line,) = re.findall(rf"^\| {row}[^|]*\| (.*) \|$", ON_GPU, re.M)
        assert line.split(" | ") == expected


def test_figures_on_a_cpu_are_those_of_the_benchmark():
    results = json.loads((ROOT / "benchmarks/results/speed.json").read_text())["results"]
    rows = dict(re.findall(r"^\| (\w[^|]*) \| (\d.*) \|$", ON_CPU, re.M))
    expected = {}
    for name, one in results.items():
        figures = [f"{one['tokens_per_second']:.0f}", f"{one['share_of_limit']:.0%}".replace("%", " %")]
        figures += [f"{one['peak_bytes'] / 1e9:.2f} GB", f"{one['first_step_seconds']:.0f} s"]
        expected[name.replace(" float32", "")] = " | ".join([*figures, f"{one['xtune_to_this']:.2f}"])
    assert rows == expected
