"""`xtune train --profile` tells where a step's time goes."""

import gzip
import json
import re

import pytest

from tests.training.test_sft import recipe
from xtune.training.train import train


def test_the_parts_of_a_step(tiny_model, tmp_path, capsys):
    run = train(recipe(tiny_model, steps=4), run_dir=tmp_path / "run", profile=True)
    parts, operations = (run.path / "profile.txt").read_text().split("\n\n", 1)
    whole = int(re.match(r"Step 3: (\d+) ms\n", parts)[1])
    told = {name: float(took) for took, name in re.findall(r"([\d.]+) ms +[\d.]+%  (.+)", parts)}
    assert sum(told.values()) == pytest.approx(whole, abs=1)
    assert {"matrix products", "attention", "softmax and loss", "elementwise", "optimizer"} <= set(told)
    assert "aten::mm" in operations
    trace = json.loads(gzip.decompress((run.path / "profile.json.gz").read_bytes()))
    assert trace["traceEvents"]
    assert f"profile  step 3: {whole} ms" in capsys.readouterr().err
    assert [line["step"] for line in run.metrics()] == [1, 2, 3, 4]
