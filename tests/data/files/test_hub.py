"""Names of the hub: told from paths, and without a network or `datasets` an error at once."""

import sys
import time
from types import ModuleType

import pytest

from xtune.data.files import data_files, hub, read_records
from xtune.errors import DataError


@pytest.fixture
def network(monkeypatch):
    """Whether there is one, as the test sets it; and no proxy."""

    def set_network(there):
        monkeypatch.setattr(
            "xtune.families.hub.network_fault", lambda: None if there else "there is no network"
        )

    return set_network


@pytest.fixture
def datasets(monkeypatch):
    """A stand-in for the library, whose load_dataset the test sets."""
    module = ModuleType("datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(hub, "find_spec", lambda _: module)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    return module


def test_a_path_that_is_not_there_is_no_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for path in ("data/alpaca", "nowhere/alpaca.jsonl", "nowhere/a.csv.gz", "alpaca", "a/b/c", "/a/b"):
        with pytest.raises(DataError, match="No such file"):
            list(read_records(path))
    assert data_files("owner/name") == []


def test_without_a_network_it_is_an_error_at_once(network, datasets):
    network(False)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no file or directory owner/name here.*there is no network"):
        list(read_records("owner/name"))
    assert time.monotonic() - start < 2


def test_without_datasets_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="datasets is not installed") as caught:
        list(read_records("owner/name"))
    assert caught.value.fix == 'pip install "xtune[hub]"'


def test_rows_of_the_hub(network, datasets):
    network(True)

    def load_dataset(name, split, streaming):
        assert (name, split, streaming) == ("owner/name", "train", True)
        yield {"text": "one", "call": {"city": "Rome", "days": None}}
        yield {"text": b"\xff"}
        raise ValueError("the line was cut\nlong story")

    datasets.load_dataset = load_dataset
    records = read_records("owner/name")
    assert next(records).row == {"text": "one", "call": {"city": "Rome"}}
    fault = next(records)
    assert (fault.place, fault.fault) == ("owner/name:2", "a cell is no text, number or list")
    with pytest.raises(DataError, match=r"the line was cut \(behind row 2\)"):
        next(records)
