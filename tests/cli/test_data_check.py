"""`xtune data check`: its numbers, its exit codes and what it writes."""

import json
import subprocess
import sys

import pytest

from xtune.cli.main import main

ROWS = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}."} for n in range(8)]
BAD = {"instruction": "q", "input": "", "output": "", "note": "päper\u2028"}


@pytest.fixture
def run(tmp_path, tokenizer, monkeypatch, capsys):
    """run("check", "rows.jsonl", …) in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xtune.families.tokenizer.load_tokenizer", lambda *_, **__: tokenizer)  # but once
    write(tmp_path / "rows.jsonl", *ROWS, BAD, "{broken", {**ROWS[0], "input": 3}, ROWS[1])

    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main(["data", *map(str, args)])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return ended.value.code, told.out, told.err

    return run


def write(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_help_is_quick_and_loads_nothing():
    code = (
        "import sys, xtune.cli.main as m\n"
        "try: m.main(['data', *sys.argv[1:]])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert not {'torch', 'transformers', 'numpy', 'pydantic', 'xtune.data'} & set(sys.modules)"
    )
    for args, named in (("--help", "clean"), ("check --help", "--max-rejected"), ("show --help", "--ids")):
        done = subprocess.run([sys.executable, "-c", code, *args.split()], capture_output=True, text=True)
        assert named in done.stdout, done.stderr
        assert not done.returncode, done.stderr


def test_the_report_tells_all_there_is(run):
    code, out, err = run("check", "rows.jsonl", "--max-length", 30)
    assert (code, err) == (0, "")
    assert "tokenizer of smollm2, the embedded model (--model NAME: of another); template smollm2" in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for said in (
        "format alpaca (11 of the first 11 rows have instruction, input, output)",
        "records 12: 10 kept (1 of them repaired), 2 rejected (16.7%)",
        "samples 10 conversations",
        "duplicates 1 records",
        "rows.jsonl:12 = rows.jsonl:2",
        "languages en 100.0%",
        "1 empty answer",
        "1 not JSON",
        "rows.jsonl:10 (Expecting property name enclosed in double quotes at column 2)",
        "1 number in input taken as text",
        "1 10 ########################################",  # turns
    ):
        assert said in lines, said
    assert "\x1b" not in out


def test_json_adds_up(run):
    code, out, err = run("check", "rows.jsonl", "rows.jsonl", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert (content["model"], content["template"], content["max_length"]) == ("smollm2", "smollm2", 2048)
    one, other = content["sources"]
    assert one == other
    assert one["records"] == one["read"] == one["kept"] + one["rejected"] == 12
    for spread in (one["lengths"], one["turns"]):
        assert sum(each["count"] for each in spread["histogram"]) == one["samples"] == 10
        assert spread["histogram"][-1]["from"] <= spread["max"] <= spread["histogram"][-1]["to"]
    assert one["rejections"]["empty answer"] == {"count": 1, "places": ["rows.jsonl:9"]}
    assert one["duplicate_places"] == [{"place": "rows.jsonl:12", "first": "rows.jsonl:2"}]
    for name, total in content["total"].items():
        assert total == one[name] + other[name]


@pytest.mark.parametrize(
    ("most", "code"), [("2", 0), ("1", 3), ("0", 3), ("17%", 0), ("16.6%", 3), ("0%", 3)]
)
def test_more_rejected_than_may_be(run, most, code):
    ended, out, err = run("check", "rows.jsonl", "--max-rejected", most)
    assert ended == code
    said = f"error: 2 of 12 records (16.7%) are rejected, more than {most}\n"
    assert err == (said if code else "")
    assert "records" in out


def test_a_threshold_that_is_none(run):
    code, _, err = run("check", "rows.jsonl", "--max-rejected", "few")
    assert code == 2
    assert "'few'" in err


def test_rejected_rows_are_written_as_they_were(run, tmp_path):
    assert run("check", "rows.jsonl", "--rejects", "bad.jsonl")[0] == 0
    lines = (tmp_path / "bad.jsonl").read_text(encoding="utf-8").split("\n")
    empty, broken = map(json.loads, lines[:-1])
    assert empty == {"place": "rows.jsonl:9", "reason": "empty answer", "detail": "", "row": BAD}
    assert (broken["place"], broken["row"]) == ("rows.jsonl:10", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", "rows.jsonl"]
    before = (tmp_path / "bad.jsonl").read_bytes()
    code, out, err = run("check", "rows.jsonl", "--rejects", "bad.jsonl")
    assert (code, out) == (2, "")
    assert "bad.jsonl" in err
    assert "--rejects" in err
    assert (tmp_path / "bad.jsonl").read_bytes() == before
    assert run("check", "rows.jsonl", "--format", "sharegtp", "--rejects", "other.jsonl")[0] == 2
    assert not (tmp_path / "other.jsonl").exists()


@pytest.mark.parametrize("args", [(), ("--json",)])
def test_what_cannot_be_read_is_told_beside_the_rest(run, args):
    code, out, err = run("check", "nowhere.jsonl", "rows.jsonl", *args)
    assert code == 3
    assert err == "error: 1 of 2 sources cannot be used as they are\n"
    if args:
        lost, good = json.loads(out)["sources"]
        assert lost["error"]["what"]
        assert lost["records"] == 0
        assert good["records"] == 12
        assert good["error"] is None
    else:
        assert out.count("nowhere.jsonl") >= 2
        assert "fix:" in out
        assert "12: 10 kept" in out


RECIPE = """
model = dict(path="smollm2", template={template!r})
method = dict(kind="lora")
data = dict(
    sources=[dict(path="rows.jsonl", limit=9), dict(path="rows.jsonl", format="alpaca")],
    max_length=16, defects=dict(empty_answer="stop"),
)
train = dict(steps=1)
"""


def test_a_recipe_is_checked_as_it_says(run, tmp_path):
    (tmp_path / "r.py").write_text(RECIPE.format(template="chatml"))
    code, out, _ = run("check", "r.py", "--json")
    assert code == 3
    content = json.loads(out)
    assert (content["template"], content["max_length"]) == ("chatml", 16)
    first, second = content["sources"]
    assert first["error"]["where"].endswith("rows.jsonl:9")
    assert (first["kept"], second["kept"]) == (8, 8)
    assert second["formats"][0]["why"] == "as named"
    assert first["over_max_length"] == 8
    code, out, _ = run("check", "r.py", "--json", "--template", "smollm2", "--max-length", 200)
    assert (json.loads(out)["template"], json.loads(out)["sources"][0]["over_max_length"]) == ("smollm2", 0)


def test_a_recipe_stands_alone(run, tmp_path):
    (tmp_path / "r.py").write_text(RECIPE.format(template="auto"))
    for args in (("r.py", "rows.jsonl"), ("r.py", "--format", "alpaca")):
        code, _, err = run("check", *args)
        assert code == 2
        assert "r.py is a recipe" in err


def test_a_template_that_the_tokenizer_cannot_write(run):
    code, out, err = run("check", "rows.jsonl", "--template", "internlm2")
    assert (code, out) == (2, "")
    assert "<s>" in err
