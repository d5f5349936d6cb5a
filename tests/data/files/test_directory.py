"""Directories: which files are read, in which order; what `datasets` saved."""

import json
import os

import pyarrow as pa
import pytest

from xtune.data.files import data_files, read_records
from xtune.errors import DataError


def put(folder, **files):
    """Write files into a folder; "__" in a name stands for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def save(folder, parts, **state):
    """A directory as datasets' save_to_disk writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05d}-of-{len(parts):05d}.arrow" for n in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        table = pa.Table.from_pylist([{"n": n} for n in rows])
        with pa.ipc.new_stream(folder / name, table.schema) as writer:
            writer.write_table(table)
    put(
        folder,
        state__json={"_data_files": [{"filename": name} for name in names], **state},
        dataset_info__json={},
    )
    return names


def numbers(path, **options):
    return [record.row["n"] for record in read_records(path, **options)]


def test_shards_are_read_in_natural_order(tmp_path):
    put(tmp_path, part10__jsonl='{"n": 4}\n', part9__json=[{"n": 2}, {"n": 3}], part1__csv="n\n1\n")
    put(tmp_path / "sub" / "deep", a__jsonl='{"n": 5}\n')
    records = list(read_records(tmp_path))
    assert [str(record.row["n"]) for record in records] == ["1", "2", "3", "4", "5"]
    assert [record.place.removeprefix(f"{tmp_path}/") for record in records] == [
        "part1.csv:2",
        "part9.json:1",
        "part9.json:1:12",
        "part10.jsonl:1",
        "sub/deep/a.jsonl:1",
    ]
    assert data_files(tmp_path) == sorted(dict.fromkeys(record.file for record in records))
    assert data_files(tmp_path / "part1.csv") == [str(tmp_path / "part1.csv")]


def test_what_is_no_data_is_passed_over(tmp_path):
    put(tmp_path, a__jsonl='{"n": 1}', readme__jsonl='{"n": 2}')
    notes = (
        "README.md README README_zh.txt LICENSE LICENSE-APACHE .hidden.json SHA256SUMS a.jsonl.sha256 a.lock _SUCCESS"
        " dataset_infos.json load.py cover.png .git/config __pycache__/a.pyc"
    )
    put(tmp_path, **dict.fromkeys(notes.split(), "no data"), empty__jsonl="")
    (tmp_path / "again").symlink_to(tmp_path)
    assert numbers(tmp_path) == [1, 2]
    put(tmp_path, unknown__xyz="what is this?")  # told, not passed over
    with pytest.raises(DataError, match="not JSON"):
        numbers(tmp_path)


def test_a_text_in_a_directory_is_one_row(tmp_path):
    put(tmp_path, a__txt="one\n\ntwo\n", b__txt=" \n", c__txt="three")
    assert [record.row for record in read_records(tmp_path)] == [{"text": "one\n\ntwo\n"}, {"text": "three"}]


def test_split_takes_the_shards_of_its_name(tmp_path):
    put(
        tmp_path / "data",
        **{"train-00000-of-00002.jsonl": '{"n": 1}', "train-00001-of-00002.jsonl": '{"n": 2}'},
    )
    put(tmp_path / "data", **{"test-00000-of-00001.jsonl": '{"n": 3}', "trainer.jsonl": '{"n": 4}'})
    put(tmp_path / "train", **{"x.jsonl": '{"n": 5}'})
    assert numbers(tmp_path, split="train") == [1, 2, 5]
    assert len(data_files(tmp_path, "test")) == 1
    put(tmp_path, **{"dev_sft.jsonl": '{"n": 6}'})
    assert numbers(tmp_path, split="dev_sft") == [6]
    with pytest.raises(DataError, match='no split "eval"'):
        numbers(tmp_path, split="eval")
    with pytest.raises(DataError, match="A file has no splits"):
        numbers(tmp_path / "train" / "x.jsonl", split="train")


def test_a_saved_dataset_is_read_in_the_order_of_its_list(tmp_path):
    names = save(tmp_path / "d", [[1, 2], [], [3]])
    put(tmp_path / "d", stale__arrow="not listed")
    assert numbers(tmp_path / "d") == [1, 2, 3]
    put(tmp_path / "d", state__json={"_data_files": [{"filename": name} for name in reversed(names)]})
    assert numbers(tmp_path / "d") == [3, 1, 2]
    assert data_files(tmp_path / "d") == sorted(str(tmp_path / "d" / name) for name in [*names, "state.json"])


def test_a_saved_dictionary_has_splits(tmp_path):
    for split, rows in (("train", [1]), ("test", [2])):
        save(tmp_path / split, [rows])
    put(tmp_path, dataset_dict__json={"splits": ["train", "test"]})
    assert numbers(tmp_path) == numbers(tmp_path, split="train") == [1]
    assert numbers(tmp_path, split="test") == [2]
    with pytest.raises(DataError, match='no split "dev" here; there are train, test'):
        numbers(tmp_path, split="dev")
    put(tmp_path, dataset_dict__json={"splits": ["test"]})
    with pytest.raises(DataError, match="none named train; there are test"):
        data_files(tmp_path)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"_data_files": [{"filename": "../other.arrow"}]}, "no such file"),
        ({"_data_files": [{"filename": "x" * 300}]}, "no such file"),
        ({"_data_files": [{}, 3]}, "no such file"),
        ({"_data_files": 3}, "no list _data_files"),
        ({"_data_files": [], "_indices_files": [{"filename": "indices.arrow"}]}, "list of indices"),
        ({"_data_files": []}, "empty"),
        ("{", "state.json cannot be read"),
        ("[" * 100_000, "state.json cannot be read"),
    ],
)
def test_a_damaged_saved_dataset(tmp_path, state, says):
    put(tmp_path, state__json=state, other__arrow="")
    with pytest.raises(DataError, match=says) as caught:
        numbers(tmp_path)
    assert caught.value.fix


def test_a_directory_without_data(tmp_path):
    put(tmp_path, readme__md="nothing here")
    with pytest.raises(DataError, match="no data file"):
        numbers(tmp_path)
    with pytest.raises(DataError, match="no data file"):
        data_files(tmp_path)


def test_a_name_that_is_no_text(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"nai\xefve.jsonl")
    with open(path, "w") as file:
        file.write('{"n": 1}')
    assert [record.place for record in read_records(tmp_path)] == [f"{tmp_path}/nai\\udcefve.jsonl:1"]
