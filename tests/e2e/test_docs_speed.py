"""docs/speed.md: its kernels are those of the schema, its figures those of the benchmark."""

import json
import re
from typing import get_args

from tests.conftest import ROOT
from xtune.recipe.schema import Kernel

PAGE = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
ON_GPU, ON_CPU = PAGE.split("Two CPU cores")
ON_CPU, SCALING = ON_CPU.split("How it scales")


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
    expected = {}
    for name, one in _results("speed").items():
        figures = [*_figures(one), f"{one['first_step_seconds']:.0f} s", f"{one['xtune_to_this']:.2f}"]
        expected[name.replace(" float32", "")] = " | ".join(figures)
    assert _rows(ON_CPU) == expected


def test_scaling_is_that_of_the_benchmark():
    expected = {
        name: " | ".join(_figures(one)) for name, one in _results("scaling").items() if name != "xtune"
    }
    assert _rows(SCALING) == expected


def _results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["results"]


def _rows(text):
    return dict(re.findall(r"^\| (\w[^|]*) \| (\d.*) \|$", text, re.M))


def _figures(one):
    share = f"{one['share_of_limit']:.0%}".replace("%", " %")
    return [f"{one['tokens_per_second']:,.0f}", share, f"{one['peak_bytes'] / 1e9:.2f} GB"]
