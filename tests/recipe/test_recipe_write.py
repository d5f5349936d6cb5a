"""A recipe written to a file is read back equal."""

import ast
import os
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from xtune import load_recipe
from xtune.recipe.catalog import shipped_recipes
from xtune.recipe.schema import Data, Defects, Full, Lora, Model, Probe, Qlora, Recipe, Source, Train
from xtune.recipe.write import recipe_source

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["'", '"', "\"'", "\\", "\n", '"""', "# no comment", "你是谁？", "{}", "\x00\u2028"]
)
counts = st.integers(1, 10**6)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
lora = {
    "rank": counts,
    "alpha": positive,
    "dropout": st.floats(0, 1, exclude_max=True),
    "targets": st.sampled_from(["all-linear", "attention", r".*\.\d+\.(q|v)_proj"]) | st.lists(text),
    "rslora": st.booleans(),
    "dora": st.booleans(),
    "lora_plus": st.none() | positive,
}
train = st.builds(
    lambda size, passes, **rest: Train(**{**rest, **size, **passes}),
    size=st.builds(
        lambda micro, times: {"micro_batch_size": micro, "batch_size": times * (micro or 1)},
        micro=st.none() | st.integers(1, 100),
        times=st.integers(1, 100),
    )
    | st.fixed_dictionaries({"batch_tokens": st.integers(8)}),
    passes=st.fixed_dictionaries({}, optional={"epochs": positive})
    | st.fixed_dictionaries({}, optional={"steps": counts})
    | st.builds(lambda warmup, more: {"warmup": warmup, "steps": warmup + more}, counts, counts),
    lr=positive,
    schedule=st.sampled_from(["cosine", "linear", "constant", "wsd"]),
    warmup=st.floats(0, 1, exclude_max=True),
    optimizer=st.sampled_from(get_args(Train.model_fields["optimizer"].annotation)),
    seed=st.integers(0, 2**32 - 1),
    gradient_checkpointing=st.sampled_from([True, False, "auto"]),
    checkpoint_every=st.none() | counts,
)
recipes = st.builds(
    Recipe,
    model=st.builds(Model, path=text, family=text, dtype=st.sampled_from(["auto", "float32"])),
    method=st.just(Full(kind="full"))
    | st.builds(Lora, kind=st.just("lora"), init=st.sampled_from(["default", "pissa"]), **lora)
    | st.builds(
        Lora,
        kind=st.just("lora"),
        targets=st.just("attention"),
        layers=st.lists(st.integers(), min_size=1),
    )
    | st.builds(
        Qlora,
        kind=st.just("qlora"),
        bits=st.just(4),
        double_quantization=st.booleans(),
        **lora,
    )
    | st.builds(Qlora, kind=st.just("qlora"), bits=st.just(8), **{**lora, "dora": st.just(False)}),
    data=st.builds(
        lambda layout, **rest: Data(**rest, **layout),
        layout=st.builds(
            lambda padded, grouped: {"packing": not padded, "group_by_length": padded and grouped},
            st.booleans(),
            st.booleans(),
        ),
        sources=st.lists(
            st.builds(
                lambda drawn, **rest: Source(**rest, **drawn),
                path=text,
                format=text,
                split=st.none() | text,
                encoding=st.none() | text,
                limit=st.none() | counts,
                system=st.none() | text,
                drawn=st.fixed_dictionaries({}, optional={"weight": positive})
                | st.fixed_dictionaries({}, optional={"count": counts}),
            ),
            min_size=1,
            max_size=3,
        ),
        max_length=st.integers(8),
        overlong=st.sampled_from(get_args(Data.model_fields["overlong"].annotation)),
        held_out=st.integers(0, 10**6) | st.floats(0, 1),
        defects=st.builds(
            Defects,
            **{
                name: st.sampled_from(get_args(field.annotation))
                for name, field in Defects.model_fields.items()
            },
        ),
    ),
    train=train,
    probe=st.builds(Probe, prompts=st.lists(text), system=st.none() | text),
    name=text,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipe=recipes, resolved=st.booleans())
def test_written_recipe_is_read_back_equal(recipe, resolved):
    assume(not any(os.path.exists(p) for p in [s.path for s in recipe.data.sources] if p and "\x00" not in p))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.py"
        file.write_text(recipe_source(recipe, resolved=resolved), encoding="utf-8")
        assert load_recipe(file) == recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipe_flattened_is_the_same(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "flat.py").write_text(recipe_source(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "flat.py") == recipe


def test_only_what_differs_is_written_and_resolved_has_all():
    recipe = load_recipe("smollm2_lora")
    short, full = recipe_source(recipe, docstring="What it does."), recipe_source(recipe, resolved=True)
    assert ast.get_docstring(ast.parse(short)) == "What it does."
    assert "warmup" not in short
    assert "read_base" not in short
    assert "lr=0.001,  # Peak learning rate" in short
    for section in (recipe.model, recipe.method, recipe.data, recipe.train, recipe.probe):
        assert all(f"    {option}=" in full for option in type(section).model_fields)
    for section in (recipe.data.defects, recipe.data.sources[0]):
        assert all(f"        {option}=" in full for option in type(section).model_fields)
    changed = load_recipe("smollm2_lora", {"data.defects.media": "stop"})
    lines = recipe_source(changed).splitlines()
    start = next(
        number for number, line in enumerate(lines) if line.startswith("    defects=dict(  # What is done")
    )
    assert lines[start + 1 : start + 3] == ['        media="stop",  # Images, sound or video', "    ),"]
    assert all(len(line) <= 110 for line in full.splitlines() if "path=" not in line)
