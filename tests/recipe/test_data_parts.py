"""The parts of shipped recipes that name data sets."""

import ast

import pytest

from xtune.data.recognise import find_mapper
from xtune.recipe.catalog import configs_directory
from xtune.recipe.load import load_recipe

PARTS = {file.stem: file for file in sorted((configs_directory() / "_base_" / "data").glob("*.py"))}


@pytest.mark.parametrize("name", PARTS)
def test_part_is_valid_and_asks_as_it_trains(name, tmp_path):
    text = PARTS[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    file = tmp_path / "recipe.py"
    file.write_text(f'{text}\nmodel = dict(path="smollm2")\nmethod = dict(kind="lora")\n', encoding="utf-8")
    recipe = load_recipe(file)
    formats = {source.format for source in recipe.data.sources} - {"auto"}
    systems = {find_mapper(format).system for format in formats}
    assert recipe.probe.prompts
    assert systems <= {recipe.probe.system or ""}
