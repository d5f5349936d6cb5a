"""docs/methods.md: its recipe holds, its tables are those of the schema."""

import re
from typing import get_args

import torch

from tests.conftest import ROOT
from tests.e2e.test_readme import blocks
from xtune.model.adapters import attach_adapter, save_adapter
from xtune.model.load import load_model
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Lora, Qlora, Train

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


def test_the_regex_for_targets_gives_an_adapter_that_loads_elsewhere(tiny_model, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (regex,) = re.findall(r'^\| `targets` .*`r"(.*?)"`', PAGE, re.M)
    model = attach_adapter(load_model(tiny_model), Lora(kind="lora", rank=4, targets=regex, init="olora"))
    adapted = {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}
    assert adapted == {"gate_proj", "up_proj", "down_proj"}
    for name, weight in model.named_parameters():
        weight.data += 0.1 * ("lora_B" in name)
    save_adapter(model, tmp_path)
    elsewhere = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path).eval()
    ids = torch.arange(100, 120)[None]
    with torch.inference_mode():
        torch.testing.assert_close(elsewhere(ids).logits, model(ids).logits, atol=1e-4, rtol=0)
