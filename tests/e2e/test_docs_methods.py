"""docs/methods.md: its recipe holds, its tables are those of the schema."""

import re
from typing import get_args

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Qlora, Train

FILE = "docs/methods.md"
PAGE = (ROOT / FILE).read_text(encoding="utf-8")


def first_column(heading: str) -> set[str]:
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.M)
    return {name for cell in cells for name in re.findall(r"`\"?(\w+)\"?`", cell)}


def test_the_recipe_holds(tmp_path):
    file = tmp_path / "r.py"
    file.write_text(
        "model = dict(path='smollm2')\ndata = dict(sources=[dict(path='a')])\n"
        + next(block for block in blocks("python", FILE) if "lora_plus" in block)
    )
    recipe = load_recipe(file)
    assert (recipe.method.lora_plus, recipe.train.warmup) == (8, 50)


def test_every_option_is_explained():
    kinds = {"kind", "full", "lora", "qlora"}
    assert first_column("`method`") == set(Qlora.model_fields) | kinds
    assert first_column("`train.optimizer`") == set(get_args(Train.model_fields["optimizer"].annotation))
