"""The encoded data set and its cache: nothing lost silently, nothing stale."""

import json

import numpy as np
import pytest

from xtune.data import dataset as module
from xtune.data.dataset import load_dataset
from xtune.errors import DataError
from xtune.recipe.schema import Data
from xtune.templates.template import find_template


@pytest.fixture
def load(tmp_path, tokenizer, monkeypatch):
    """load(rows, **options) writes alpaca rows and loads them, with a cache of this test's own."""
    monkeypatch.setenv("XTUNE_HOME", str(tmp_path / "home"))

    def load(rows, template="smollm2", **options):
        file = tmp_path / "rows.json"
        file.write_text(json.dumps([{"instruction": q, "input": "", "output": a} for q, a in rows], indent=1))
        data = Data(sources=[{"path": str(file)}], **options)
        return load_dataset(data, tokenizer, find_template(template))

    return load


ROWS = [("Hi", "Hello!"), ("What is 1 + 1?", "Two."), ("Count.", "1 2 3 " * 200)]


def test_every_record_is_kept_or_counted(load, tokenizer):
    dataset = load(ROWS, max_length=100)
    assert len(dataset) == len(dataset.sources) == 2
    assert tokenizer.decode(dataset[1].input_ids[dataset[1].loss_mask]) == "Two.<|im_end|>"
    assert dataset.report["read"] == 3
    assert dataset.report["rejected"] == 1
    (reason,) = dataset.report["rejections"]
    assert "longer than max_length" in reason
    assert dataset.lengths.tolist() == [len(dataset[0]), len(dataset[1])]
    assert dataset.loss_lengths.tolist() == [int(dataset[i].loss_mask.sum()) for i in range(2)]


def test_encoded_once_until_something_it_depends_on_changes(load, monkeypatch):
    first = load(ROWS)
    encoded = []
    original = module.encode_rendered
    monkeypatch.setattr(module, "encode_rendered", lambda *args: encoded.append(1) or original(*args))
    again = load(ROWS)
    assert not encoded
    assert np.array_equal(first.input_ids, again.input_ids)
    assert isinstance(again.input_ids, np.memmap)
    load([*ROWS[:2], ("Count.", "1 2 4 " * 200)])
    load(ROWS, max_length=1000)
    load(ROWS, template="chatml")
    assert len(encoded) == 3


def test_an_interrupted_encode_leaves_no_half_cache(load, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_rendered", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(ROWS)
    assert len(load(ROWS)) == 3


def test_nothing_left_names_the_reasons(load):
    with pytest.raises(DataError, match="longer than max_length"):
        load(ROWS[2:], max_length=100)


def test_overlong_error_names_the_record(load):
    with pytest.raises(DataError) as caught:
        load(ROWS, max_length=100, overlong="error")
    assert caught.value.where.endswith("rows.json:12")
