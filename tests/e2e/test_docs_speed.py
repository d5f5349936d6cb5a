"""docs/speed.md: its kernels are those of the schema, its figures those of the benchmark."""

import json
import re
from typing import get_args

import pytest

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


@pytest.mark.parametrize("page", ["README.md", "README_zh.md"])
def test_the_readme_s_shares_are_those_of_the_benchmarks(page):
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if "2026.10 |" in line or "–" in line
    ]
    (head, *rows) = [row for row in table if len(row) == 8]
    names = [name.partition(" ")[0].lower() for name in head]
    speed = _results("speed")
    shares, memory = {"xtune": "1"}, {"xtune": f"{speed['xtune']['peak_bytes'] / 1e9:.1f}"}
    for name, one in sorted(speed.items(), key=lambda item: item[1]["xtune_to_this"]):
        peer = name.partition(" ")[0].replace("llamafactory", "llama-factory")
        if peer not in shares:  # each one's best comes first
            shares[peer] = f"{1 / one['xtune_to_this']:.2f}"
            memory[peer] = f"{one['peak_bytes'] / 1e9:.1f}"
    gpu = json.loads((ROOT / "benchmarks/results/gpu_speed.json").read_text())["results"]
    ours = gpu["xtune-qlora"]["short"]["tokens_per_s"]
    on_gpu = {"xtune": "1"} | {
        peer: f"{gpu[f'{peer}-qlora-nogc']['short']['tokens_per_s'] / ours:.2f}"
        for peer in ("unsloth", "trl")
    }
    for row, expected in zip(rows, (shares, memory, on_gpu), strict=False):
        assert row[1:] == [expected.get(name, "–") for name in names[1:]]
