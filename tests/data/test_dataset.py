"""The encoded data set and its cache: nothing lost silently, nothing stale."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.conftest import ROOT
from xtune.data import dataset as module
from xtune.data.dataset import load_dataset
from xtune.data.encoding.workers import Workers
from xtune.errors import DataError, ResourceError
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
    assert len(dataset) == 2
    assert [dataset.source(index).rpartition(":")[2] for index in range(2)] == ["2", "7"]
    assert tokenizer.decode(dataset[1].input_ids[dataset[1].loss_mask]) == "Two.<|im_end|>"
    assert dataset.report["read"] == 3
    assert dataset.report["rejected"] == 1
    (reason,) = dataset.report["rejections"]
    assert "longer than max_length" in reason
    assert dataset.lengths.tolist() == [len(dataset[0]), len(dataset[1])]
    assert dataset.loss_lengths.tolist() == [int(dataset[i].loss_mask.sum()) for i in range(2)]


@pytest.fixture
def encoded(monkeypatch):
    """A list with an entry for each time that something is encoded."""
    calls = []
    original = module.encode_in_chunks
    monkeypatch.setattr(module, "encode_in_chunks", lambda *args: calls.append(1) or original(*args))
    return calls


def test_encoded_once_until_something_it_depends_on_changes(load, encoded):
    first = load(ROWS)
    again = load(ROWS)
    load(ROWS, packing=False, group_by_length=True)
    assert len(encoded) == 1
    assert np.array_equal(first.input_ids, again.input_ids)
    assert isinstance(again.input_ids, np.memmap)
    load([*ROWS[:2], ("Count.", "1 2 4 " * 200)])
    load(ROWS, max_length=1000)
    load(ROWS, template="chatml")
    load(ROWS, defects={"mojibake": "drop"})
    assert len(encoded) == 5


def test_an_interrupted_encode_leaves_no_half_cache(load, monkeypatch, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_in_chunks", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(ROWS)
    assert not [path for path in (tmp_path / "home" / "datasets").iterdir() if path.is_dir()]
    assert len(load(ROWS)) == 3


def test_nothing_left_names_the_reasons(load):
    with pytest.raises(DataError, match="longer than max_length"):
        load(ROWS[2:], max_length=100)


def test_overlong_error_names_the_record(load):
    with pytest.raises(DataError) as caught:
        load(ROWS, max_length=100, overlong="error")
    assert caught.value.where.endswith("rows.json:12")


def many(count):
    return [(f"What is {n}?", f"It is the number {n}, of course. " * (n % 9 + 1)) for n in range(count)]


def test_many_processes_give_what_one_gives(load, monkeypatch):
    rows = [*many(1700), ("Hi", ""), ("What is 1?", "It is the number 1, of course. " * 2), *many(3)]
    one = load(rows)
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr("xtune.data.encoding.workers._cores", lambda: 2)
    several = load(rows, defects={"media": "stop"})  # another key in the cache, nothing else
    for name in ("input_ids", "labels", "offsets", "places", "source_of"):
        assert np.array_equal(getattr(one, name), getattr(several, name)), name
    assert one.report == several.report
    assert one.report["rejected"] == 1
    # The first three in the file once more, and the one with twice the same words.
    assert one.report["notes"]["the same as an earlier record"]["count"] == 4


def test_a_killed_process_is_told(load, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 0)
    monkeypatch.setattr("xtune.data.encoding.workers._cores", lambda: 1)
    started = Workers.__init__

    def start_and_kill(self):
        started(self)
        self._workers[0]._process.kill()

    monkeypatch.setattr(Workers, "__init__", start_and_kill)
    with pytest.raises(ResourceError, match=r"ended \(exit code -9\)"):
        load(many(600))


def test_what_goes_wrong_in_a_process_is_told_as_here(load, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 0)
    with pytest.raises(DataError) as caught:
        load([*many(600), ROWS[2]], max_length=500, overlong="error")
    assert caught.value.where.endswith("rows.json:3002")


CODE = """
import sys
from xtune.data import dataset
from xtune.families.tokenizer import load_tokenizer
from xtune.recipe.schema import Data
from xtune.templates.template import find_template

tokenizer = load_tokenizer("smollm2")
original = dataset.encode_in_chunks

def slow(*args):
    print("encoding", flush=True)
    sys.stdin.readline()
    return original(*args)

dataset.encode_in_chunks = slow
data = dataset.load_dataset(Data(sources=[{"path": sys.argv[1]}]), tokenizer, find_template("smollm2"))
print("loaded", len(data), flush=True)
"""


def test_others_wait_for_the_first_and_take_over_when_it_is_killed(tmp_path, base_directory):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"instruction": "q", "output": "a"}\n')
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    script = tmp_path / "load.py"
    script.write_text(textwrap.dedent(CODE).replace('"smollm2")\n', f'"{base_directory}")\n', 1))
    environment = {**os.environ, "XTUNE_HOME": str(home), "PYTHONPATH": str(ROOT)}

    def start():
        return subprocess.Popen(
            [sys.executable, script, file],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    first = start()
    assert first.stdout.readline() == "encoding\n"
    others = [start(), start()]
    for other in others:
        assert "Waiting for another process" in other.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    for other in others:  # one of them takes over; the other still waits
        other.stdin.write("go\n")
        other.stdin.flush()
    said = sorted(other.communicate(timeout=60)[0] for other in others)
    assert said == ["encoding\nloaded 1\n", "loaded 1\n"]
    # What the killed one left is cleared away.
    left = [path.name for path in (home / "datasets").iterdir() if path.is_dir()]
    assert len(left) == 1
    assert not left[0].startswith(".")


def test_the_hash_of_a_large_file_is_kept_until_it_changes(tmp_path, monkeypatch):
    from xtune.data import cache_key

    monkeypatch.setenv("XTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache_key, "_LARGE", 0)
    file = tmp_path / "large"
    file.write_text("one")
    first = cache_key.file_hash(str(file))
    assert not (tmp_path / "home").exists()  # so soon after its change it might change again unseen
    long_ago = time.time() - 100
    os.utime(file, (long_ago, long_ago))
    monkeypatch.setattr(cache_key.time, "time_ns", lambda: int((time.time() + 100) * 1e9))
    assert cache_key.file_hash(str(file)) == first
    reads = []
    original = cache_key._read_hash
    monkeypatch.setattr(
        cache_key, "_read_hash", lambda path, *rest: reads.append(path) or original(path, *rest)
    )
    assert cache_key.file_hash(str(file)) == first
    assert not reads
    file.write_text("two")
    assert cache_key.file_hash(str(file)) != first
