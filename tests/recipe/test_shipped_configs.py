"""Every shipped recipe and every model part, without weights: against the schema, and against the models' published
configurations in published_configs.json.

An entry there is what models of one shape have in common:
    paths     their names on the hub
    billions  of weights, as published; shared embeddings count once
    family    that must recognise them
    template  that the family must choose, or null where a model's own has to say; a base model's part names it
    files     what else lies beside config.json and tells of the template
    config    config.json, without what neither a family nor the model class reads
"""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from xtune.families import FAMILIES, find_family, read_layout
from xtune.families.family import Options
from xtune.model.attention import OWN, needs_own, register
from xtune.model.original import parameter_count
from xtune.recipe.catalog import configs_directory, shipped_recipes
from xtune.recipe.copy import copy_recipe
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Full, Model, Qlora, Recipe
from xtune.templates.template import find_template

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
BY_PATH = {path: published for published in PUBLISHED for path in published["paths"]}
SHIPPED = shipped_recipes()
PARTS = sorted((configs_directory() / "_base_" / "models").glob("*.py"))
EMBEDDED = "smollm2"
HUB = {path: BY_PATH["HuggingFaceTB/SmolLM2-135M-Instruct" if path == EMBEDDED else path] for path in [EMBEDDED, *BY_PATH]}

# Bytes of GPU memory a weight. NF4 has a scale for 64 weights, of 8 bits, and a scale of 32 bits for 256 of those.
BFLOAT16 = 2
NF4 = (4 + (8 + 32 / 256) / 64) / 8
TRAINED = 4 + 4 + 8  # float32: the weight, its gradient, AdamW's two moments


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def model_of(part: Path) -> Model:
    """The `model` section of a part."""
    namespace: dict = {}
    exec(part.read_text(encoding="utf-8"), namespace)
    return Model(**namespace["model"])


@cache
def native(path: str):
    """Native configuration and class of a published model."""
    config = BY_PATH[path]["config"]
    family = next(family for family in FAMILIES if family.name == BY_PATH[path]["family"])
    if family.layout:
        layout = family.layout(config, Options())
        return layout.native_config, layout.model_class
    native_config = transformers.AutoConfig.for_model(**config)
    return native_config, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(native_config)]
