"""The whole run: every record accounted for, rows as they were, files whole or not at all."""

import json
import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtune.cli.data_clean import clean as command
from xtune.data.clean import Options, clean
from xtune.errors import DataError, ResourceError, UsageError
from xtune.recipe.schema import Source

LONG = " ".join(f"w{number}" for number in random.Random(0).choices(range(10**6), k=60))


def alpaca(instruction, output, **more):
    return {"instruction": instruction, "input": "", "output": output, **more}


ROWS = [
    alpaca("Where is it?", "It is in the house.", id=1, note="ümläut \u2028 1.50"),
    alpaca("Where is it?", LONG),
    alpaca("Where is IT?", "It is in the  house."),  # of the first
    alpaca("Where is it?", LONG.replace("w", "W", 3) + " and more"),  # of the second
    alpaca("Say it.", "yes " * 60),
    alpaca("Wo wohnst du?", "In einem kleinen Haus mit Garten, gleich hinter der Kirche."),
    alpaca("What is in the test?", "As an AI language model I cannot say."),
    alpaca("Nothing", ""),  # cannot be read
    alpaca("数据在哪里？", "数据在房子里。"),
]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def lines(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def run(path: Path, out: Path, options=None, **more):
    return clean([Source(path=str(path))], out, options, **more)


def test_defaults(tmp_path):
    data, out, gone = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / "gone.jsonl"
    report = run(data, out, removed=gone)
    assert lines(out) == [ROWS[n] for n in (0, 1, 5, 6, 8)]
    assert {row["place"]: (row["reason"], row.get("duplicate_of"), row["row"]) for row in lines(gone)} == {
        f"{data}:3": ("exact duplicate", f"{data}:1", ROWS[2]),
        f"{data}:4": ("near duplicate", f"{data}:2", ROWS[3]),
        f"{data}:5": ("too much repetition", None, ROWS[4]),
    }
    assert (report.kept, len(report.removals), report.data.rejected, report.data.read) == (5, 3, 1, 9)
    written = json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert written == json.loads(json.dumps(report.to_dict()))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["in.jsonl", "out.jsonl", "out.jsonl.report.json", "gone.jsonl"]
    )


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (Options(exact=False, near=False, rules=False), (0, 1, 2, 3, 4, 5, 6, 8)),
        (Options(near=False), (0, 1, 3, 5, 6, 8)),
        (Options(languages=("en",)), (0, 1, 6)),  # of random "words" and numbers no language can be told
        (Options(boilerplate=True), (0, 1, 5, 8)),
        (Options(min_chars=10), (0, 1, 5, 6)),
    ],
)
def test_each_step_is_optional(tmp_path, options, kept):
    run(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", options)
    assert lines(tmp_path / "out.jsonl") == [ROWS[n] for n in kept]


def test_held_out_set(tmp_path):
    held_out = write(tmp_path / "test.jsonl", [alpaca("What is in the test?", "A cat.")])
    report = run(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", Options(against=str(held_out)))
    assert ROWS[6] not in lines(tmp_path / "out.jsonl")
    [(place, why)] = [removal for removal in report.removals if removal[1].reason == "in the held-out set"]
    assert (place, why.detail) == (f"{tmp_path / 'in.jsonl'}:7", f"the question of {held_out}:1")


TEXTS = st.sampled_from([LONG, LONG + " x", LONG.upper(), "yes " * 60, "hello", "你好", "", "As an AI model"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(TEXTS, TEXTS), max_size=12),
    options=st.builds(
        Options, exact=st.booleans(), near=st.booleans(), rules=st.booleans(), boilerplate=st.booleans()
    ),
)
def test_every_record_is_accounted_for(tmp_path, pairs, options):
    rows = [alpaca("good", "row", id=-1), *(alpaca(*pair, id=n) for n, pair in enumerate(pairs))]
    out, gone = tmp_path / "out.jsonl", tmp_path / "gone.jsonl"
    report = run(write(tmp_path / "in.jsonl", rows), out, options, removed=gone, force=True)
    kept, removed = [row["id"] for row in lines(out)], [row["row"]["id"] for row in lines(gone)]
    assert kept == sorted(kept)  # in order
    assert report.kept + len(report.removals) + report.data.rejected == report.data.read == len(rows)
    rejected = {n for n, pair in enumerate(pairs) if "" in pair}
    assert sorted([*kept, *removed, *rejected]) == list(range(-1, len(pairs)))
    assert len(removed) == len({place for place, _ in report.removals})
    again = run(out, tmp_path / "again.jsonl", options, force=True)
    assert not again.removals  # what is clean stays


def test_other_kinds_of_files_and_rows(tmp_path):
    (tmp_path / "in.json").write_text(
        json.dumps([[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]])
    )
    run(tmp_path / "in.json", tmp_path / "out.jsonl")
    run(tmp_path / "out.jsonl", tmp_path / "again.jsonl")
    assert lines(tmp_path / "again.jsonl") == json.loads((tmp_path / "in.json").read_text())


def test_sources_of_different_formats_are_refused(tmp_path):
    first = write(tmp_path / "a.jsonl", [alpaca("q", "a")])
    second = write(
        tmp_path / "b.jsonl",
        [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}],
    )
    with pytest.raises(UsageError, match=r"alpaca and messages"):
        clean([Source(path=str(first)), Source(path=str(second))], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_duplicates_are_found_across_sources(tmp_path):
    first, second = (
        write(tmp_path / f"{name}.jsonl", [alpaca("q", "a"), alpaca("q", name)]) for name in "bc"
    )
    report = clean([Source(path=str(first)), Source(path=str(second))], tmp_path / "out.jsonl")
    assert [(place, why.duplicate_of) for place, why in report.removals] == [(f"{second}:1", f"{first}:1")]


def test_nothing_is_written_over(tmp_path):
    data, out = write(tmp_path / "in.jsonl", ROWS), write(tmp_path / "out.jsonl", [{"my": "data"}])
    with pytest.raises(UsageError, match="something already"):
        run(data, out)
    assert lines(out) == [{"my": "data"}]
    run(data, out, force=True)
    assert len(lines(out)) == 5
    (tmp_path / "link").symlink_to(out)
    os.mkfifo(tmp_path / "pipe")
    for target in (data, tmp_path, tmp_path / "link", tmp_path / "pipe"):
        with pytest.raises(UsageError):
            run(data, target, force=True)
    with pytest.raises(UsageError, match="read from"):
        run(tmp_path, tmp_path / "new.jsonl")
    with pytest.raises(UsageError, match="the same"):
        run(data, tmp_path / "new.jsonl", removed=tmp_path / "new.jsonl")
    assert lines(data) == ROWS


def test_no_row_would_stay(tmp_path):
    with pytest.raises(DataError, match="answer too short"):
        run(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", Options(min_chars=10**6))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError):
        run(write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_command(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    data = write(tmp_path / "in.jsonl", ROWS)
    done = CliRunner().invoke(
        command,
        [
            str(data),
            str(tmp_path / "out.jsonl"),
            "--languages",
            "en, zh",
            "--removed",
            str(tmp_path / "gone.jsonl"),
        ],
        catch_exceptions=False,
    )
    assert "9 records read: 4 kept, 4 removed, 1 rejected" in done.stdout
    for reason in (
        "exact duplicate",
        "near duplicate",
        "too much repetition",
        "other language",
        "empty answer",
    ):
        assert reason in done.stdout
    assert f"{data}:6 (de)" in done.stdout
    as_json = CliRunner().invoke(
        command, [str(data), str(tmp_path / "json.jsonl"), "--json"], catch_exceptions=False
    )
    assert json.loads(as_json.stdout)["kept"] == 5


@pytest.mark.parametrize(
    "wrong", [{"languages": ("english",)}, {"threshold": 0}, {"max_symbols": 1.5}, {"ngram": 0}]
)
def test_wrong_options_are_told(wrong):
    with pytest.raises(UsageError):
        Options(**wrong)
