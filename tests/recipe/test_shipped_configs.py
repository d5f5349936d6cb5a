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

import copy
import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from xtune.data.recognise import KINDS_OF, find_mapper
from xtune.families import FAMILIES, find_family
from xtune.families.family import Options
from xtune.families.reward_model import put_head
from xtune.model.attention import OWN, needs_own, register
from xtune.recipe.catalog import configs_directory, description, shipped_recipes
from xtune.recipe.copy import copy_recipe
from xtune.recipe.load import load_recipe
from xtune.recipe.schema import Full, Model, Qlora, Recipe
from xtune.templates.template import find_template

PUBLISHED = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
BY_PATH = {path: published for published in PUBLISHED for path in published["paths"]}
BY_PATH["smollm2"] = BY_PATH["HuggingFaceTB/SmolLM2-135M-Instruct"]  # the embedded model
PARTS = {file.stem: file for file in sorted((configs_directory() / "_base_" / "models").glob("*.py"))}
RECIPES = shipped_recipes()

# Bytes of GPU memory a weight takes. NF4 has an 8-bit scale for 64 weights, and a 32-bit one for 256 of those.
BFLOAT16 = 2
NF4 = (4 + (8 + 32 / 256) / 64) / 8
TRAINED = 4 + 4 + 8  # float32: itself, its gradient, AdamW's two moments

TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "layer_types": ["full_attention"] * 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "pad_token_id": 0,
    "mask_token_id": 1,
    "gmask_token_id": 2,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "dtype": torch.float32,
}
PROMPT = torch.tensor(
    [[5, 6, 7, TINY["gmask_token_id"], TINY["bos_token_id"], 8, 9]]
)  # as ChatGLM-6B needs it


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def model_of(part: str) -> Model:
    """The `model` section that a part states."""
    names: dict = {}
    exec(PARTS[part].read_text(encoding="utf-8"), names)
    return Model(**names["model"])


@cache
def native(path: str):
    """The native configuration of a published model, and its class."""
    config = BY_PATH[path]["config"]
    family = next(family for family in FAMILIES if family.name == BY_PATH[path]["family"])
    if family.layout:
        layout = family.layout(config, Options())
        return layout.native_config, layout.model_class
    native_config = transformers.AutoConfig.for_model(**config)
    return native_config, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(native_config)]


@cache
def linear_shapes(path: str) -> list[tuple[int, int]]:
    """[outputs, inputs] of the layers that are quantised and get an adapter: all but the output layer."""
    config, model_class = native(path)
    with torch.device("meta"):
        model = model_class(config)
    head = model.get_output_embeddings()
    return [
        tuple(module.weight.shape)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]


def gigabytes(recipe: Recipe) -> int:
    """GPU memory of weights, gradients and optimizer, without what depends on the length of the samples."""
    path, method = recipe.model.path, recipe.method
    weights = count_weights(path, reward=recipe.train.objective.kind == "reward")
    if isinstance(method, Full):
        return math.ceil(weights * TRAINED / 1e9)
    shapes = linear_shapes(path)
    quantised = sum(rows * columns for rows, columns in shapes) if isinstance(method, Qlora) else 0
    adapter = method.rank * sum(rows + columns for rows, columns in shapes)
    return math.ceil((quantised * NF4 + (weights - quantised) * BFLOAT16 + adapter * TRAINED) / 1e9)


@cache
def count_weights(path: str, *, reward: bool = False) -> int:
    config, model_class = native(path)
    with torch.device("meta"):
        model = model_class(copy.deepcopy(config))
        if reward:
            put_head(model)
    return sum(weight.numel() for weight in model.parameters())


def test_every_published_model_has_a_part_and_no_other():
    assert sorted(model_of(part).path for part in PARTS) == sorted(BY_PATH)


@pytest.mark.parametrize("part", PARTS)
def test_part_is_recognised_and_has_a_template(part, tmp_path):
    model, published = model_of(part), BY_PATH[model_of(part).path]
    for name, text in {"config.json": json.dumps(published["config"]), **published.get("files", {})}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    family = find_family(tmp_path)
    chosen = family.template(published["config"], tmp_path)
    assert (family.name, chosen) == (published["family"], published["template"])
    assert model.template in ("auto", chosen) or chosen is None
    assert find_template(chosen if model.template == "auto" else model.template).stop_tokens


@pytest.mark.parametrize("part", PARTS)
def test_part_has_the_published_size(part):
    path = model_of(part).path
    assert count_weights(path) / 1e9 == pytest.approx(BY_PATH[path]["billions"], rel=0.03)


@pytest.mark.parametrize("part", PARTS)
def test_part_runs_when_it_is_made_small(part):
    full, model_class = native(model_of(part).path)
    config = copy.deepcopy(full)
    if getattr(full, "num_key_value_heads", None):
        config.num_key_value_heads = 4 if full.num_key_value_heads == full.num_attention_heads else 2
    for name, value in TINY.items():
        if getattr(full, name, None) is not None:
            setattr(config, name, value)
    torch.manual_seed(0)
    model = model_class(config).eval()
    if needs_own(model_class):
        register()
        model.set_attn_implementation(OWN)
    with torch.no_grad():
        logits = model(input_ids=PROMPT).logits
    assert logits.shape == (*PROMPT.shape, TINY["vocab_size"])
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_short_valid_and_says_what_it_needs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no data is
    assert len(RECIPES[name].read_text(encoding="utf-8").splitlines()) <= 20
    recipe, told = load_recipe(name), description(RECIPES[name])
    assert recipe.name == name
    assert recipe.model.path in BY_PATH
    if RECIPES[name].parent.name != "smollm2":
        assert told.endswith(f"; {gigabytes(recipe)} GB on the GPU plus activations.")
    formats = {source.format for source in recipe.data.sources} - {"auto"}
    assert {find_mapper(format).kind for format in formats} <= set(KINDS_OF[recipe.train.objective.kind])


@pytest.mark.parametrize("name", RECIPES)
def test_copied_recipe_says_the_same(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied, shipped = load_recipe(copy_recipe(name, "mine")[0]), load_recipe(name)
    assert copied.model_copy(update={"data": shipped.data}) == shipped
    assert [Path(source.path).name for source in copied.data.sources] == [
        Path(source.path).name for source in shipped.data.sources
    ]
