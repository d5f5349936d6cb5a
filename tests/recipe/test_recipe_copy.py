"""A shipped recipe copied into a user's folder runs from anywhere and overwrites nothing."""

from pathlib import Path

import pytest

from xtune import UsageError, load_recipe
from xtune.recipe.copy import copy_recipe


def test_copy_is_flat_and_loads_from_another_directory(tmp_path, monkeypatch):
    recipe, data = copy_recipe("smollm2_lora", tmp_path / "new" / "folder")
    monkeypatch.chdir(tmp_path)
    copied, shipped = load_recipe(recipe), load_recipe("smollm2_lora")
    assert copied.data.sources[0].path == str(data) == str(tmp_path / "new/folder/identity.jsonl")
    assert data.read_bytes() == Path(shipped.data.sources[0].path).read_bytes()
    assert copied.model_copy(update={"data": shipped.data}) == shipped
    text = recipe.read_text(encoding="utf-8")
    assert 'path="identity.jsonl"' in text
    assert "mmengine" not in text


def test_copy_never_overwrites(tmp_path):
    recipe, data = copy_recipe("smollm2_lora", tmp_path)
    recipe.write_text("mine")
    with pytest.raises(UsageError, match=r"smollm2_lora\.py is already there") as caught:
        copy_recipe("smollm2_lora", tmp_path)
    assert caught.value.fix
    assert recipe.read_text() == "mine"
    assert copy_recipe("smollm2_full", tmp_path)[1] == data  # the same data may be there already
    data.write_text("mine")
    with pytest.raises(UsageError, match=r"identity\.jsonl is already there"):
        copy_recipe("smollm2_qlora", tmp_path)
    assert data.read_text() == "mine"
    assert not (tmp_path / "smollm2_qlora.py").exists()


def test_copy_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        copy_recipe("smollm2_lora", tmp_path / "file" / "folder")


def test_unknown_name(tmp_path):
    with pytest.raises(UsageError, match="did you mean smollm2_lora"):
        copy_recipe("smollm_lora", tmp_path)
