"""A format of the user's own: what the function may give, and what is said where it does not work."""

import json

import pytest

from xtune.data.findings import default_actions
from xtune.data.read import iterate_mapped
from xtune.data.report import DataReport
from xtune.errors import DataError, UsageError
from xtune.messages import Document, Message, Pair, Sample
from xtune.recipe.schema import Source

LEARNT = (Message("user", "q"), Message("assistant", "a"))
ROWS = [{"q": "q", "a": "a"}, {"q": "q"}]


@pytest.fixture
def read(tmp_path):
    """read(code, *rows) -> samples and report of the rows, read by to_sample(row) of that code."""
    data, program = tmp_path / "rows.jsonl", tmp_path / "my_format.py"

    def read(code, *rows, kinds=None, name="to_sample", actions=None):
        data.write_text("\n".join(map(json.dumps, rows or ROWS)))
        program.write_text(code)
        report = DataReport()
        source = Source(path=str(data), format=f"{program}:{name}")
        mapped = [samples for _, samples in iterate_mapped(source, report, kinds=kinds, actions=actions)]
        return mapped, report

    read.data, read.program = data, program
    return read


@pytest.mark.parametrize(
    "body",
    [
        'return {"instruction": row["q"], "output": row["a"]}',
        'return {"messages": [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]}',
        'return [{"role": "user", "content": row["q"]}, {"role": "assistant", "content": row["a"]}]',
        'return Sample((Message("user", row["q"]), Message("assistant", row["a"])))',
        'return Sample([Message("user", row["q"]), Message("assistant", row["a"])])',
        'return [Sample((Message("user", row["q"]), Message("assistant", row["a"])))]',
        'yield {"instruction": row["q"], "output": row["a"]}',
    ],
)
def test_what_a_function_may_give(read, body):
    code = f"from xtune.messages import Message, Sample\ndef to_sample(row):\n    {body}\n"
    mapped, report = read(code)
    assert mapped == [[Sample(LEARNT, source=f"{read.data}:1")]]
    assert {reason: tally.places for reason, tally in report.rejections.items()} == {
        "to_sample raised KeyError in line 3": [f"{read.data}:2 ('a')"]
    }
    assert (report.formats[0].format, report.formats[0].why) == (f"{read.program}:to_sample", "as named")


def test_other_kinds(read):
    code = """
from xtune.messages import Document, Message, Pair
def to_sample(row):
    if "text" in row:
        return Document(row["text"])
    return {"prompt": row["q"], "chosen": row["a"], "rejected": "b"}
"""
    mapped, _ = read(code, {"q": "q", "a": "a"}, {"text": "words"})
    assert mapped == [
        [Pair(LEARNT[:1], LEARNT[1:], (Message("assistant", "b"),), source=f"{read.data}:1")],
        [Document("words", source=f"{read.data}:2")],
    ]
    mapped, report = read(code, {"q": "q", "a": "a"}, {"text": "words"}, kinds=(Sample,))
    assert len(mapped) == 1
    assert list(report.rejections) == ["preference pairs where conversations or documents are wanted"]


def test_lists_give_several_samples_and_none_leaves_out(read):
    code = """
def to_sample(row):
    if "rows" in row:
        return [dict(instruction=q, output=a) for q, a in row["rows"]]
"""
    mapped, report = read(
        code, *({"rows": rows} for rows in ([["q", "a"], ["r", "b"]], [], [["q", ""], ["r", "b"]])), {}
    )
    assert [[sample.messages[1].content for sample in samples] for samples in mapped] == [["a", "b"], ["b"]]
    assert {reason: tally.count for reason, tally in report.rejections.items()} == {
        "left out by to_sample": 2
    }
    assert list(report.repairs) == ["one of several samples in a row left out: empty answer"]


def test_a_row_of_several_samples_gives_all(read):
    code = "def to_sample(row):\n    return {'instruction': 'q', 'instances': row['rows']}\n"
    mapped, _ = read(code, {"rows": [{"input": "", "output": "a"}, {"input": "", "output": "b"}]})
    assert [sample.messages[1].content for sample in mapped[0]] == ["a", "b"]


def test_rows_left_out_do_not_stop_but_exceptions_do(read):
    code = "def to_sample(row):\n    return dict(instruction=row['q'], output='a') if row else None\n"
    strict = {**default_actions(), "wrong_columns": "stop", "wrong_type": "stop"}
    _, report = read(code, {"q": "q"}, {}, actions=strict)
    assert (report.kept, report.rejected) == (1, 1)
    with pytest.raises(DataError, match="To_sample raised KeyError in line 2") as caught:
        read(code, {"q": "q"}, {"r": "q"}, actions=strict)
    assert caught.value.where == f"{read.data}:2"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("3", "to_sample returned a number that is neither a Sample nor of a known format"),
        ("object()", "to_sample returned object that is neither a Sample nor of a known format"),
        ("{'x': 1}", "to_sample returned an object that is neither a Sample nor of a known format"),
        ("Sample((Message('user', None), Message('assistant', 'a')))", None),
        ("Sample((Message('human', 'q'), Message('assistant', 'a')))", None),
        ("Sample(('q', 'a'))", None),
        ("Sample((Message('user', 'q'), Message('assistant', '', tool_calls=('f',))))", None),
        ("Document(None)", None),
        ("Pair((Message('user', 'q'),), 'a', 'b')", None),
    ],
)
def test_what_is_no_sample_is_rejected(read, given, reason):
    code = f"""
from xtune.messages import Document, Message, Pair, Sample
def to_sample(row):
    return {given}
"""
    with pytest.raises(DataError) as caught:
        read(code)
    kind = given.partition("(")[0]
    what = f"returned a {kind} with something other than text, turns or known roles in it"
    assert f"2 x {reason or f'to_sample {what}'}: {read.data}:1, " in str(caught.value)


def test_a_row_of_two_formats_is_not_guessed_at(read):
    code = "def to_sample(row):\n    return dict.fromkeys('instruction output instruction_zh output_zh'.split(), 'x')"
    with pytest.raises(
        DataError, match=r"2 x to_sample returned a row of several formats: .*\(alpaca, alpaca_zh\)"
    ):
        read(code)


def test_the_line_is_that_of_the_users_file(read):
    code = """import json
def _inner(row):
    return json.loads(row["q"])
def to_sample(row):
    return _inner(row)
"""
    with pytest.raises(
        DataError, match=r"1 x to_sample raised JSONDecodeError in line 3: .*rows\.jsonl:1 \(Expecting"
    ):
        read(code, {"q": "{"})


def test_a_file_is_run_as_python_would(read):
    code = """
from __future__ import annotations
from dataclasses import dataclass

try:
    import nothing_of_that_name
except ImportError:
    nothing_of_that_name = None
if nothing_of_that_name is None:
    NAMES = ["q"]
NAMES.append("a")

@dataclass
class Row:
    q: str
    a: str

def to_sample(row: Unknown) -> dict:
    given = Row(*(row[name] for name in NAMES))
    return {"instruction": given.q, "output": given.a}

if __name__ == "__main__":
    raise SystemExit
"""
    assert read(code)[0][0][0].messages == LEARNT


def test_an_edited_function_is_read_anew(read):
    assert (
        read("def to_sample(row):\n    return dict(instruction='q', output='a')\n")[0][0][0].messages
        == LEARNT
    )
    with pytest.raises(DataError, match="left out by to_sample"):
        read("def to_sample(row):\n    return None\n")


@pytest.mark.parametrize(
    ("code", "name", "said"),
    [
        ("def to_sample(row): pass", "to_smaple", "There is no function to_smaple."),
        ("to_sample = 3", "to_sample", "There is no function to_sample."),
        ("def to_sample(row) pass", "to_sample", "This is not Python: expected ':'"),
        (
            "import nothing_there\ndef to_sample(row): pass",
            "to_sample",
            "ModuleNotFoundError in line 1: No module",
        ),
        ("x = '\0'", "to_sample", "This is not Python"),
    ],
)
def test_a_file_without_the_function_is_told(read, code, name, said):
    with pytest.raises(UsageError) as caught:
        read(code, name=name)
    assert said in str(caught.value)
    assert caught.value.where == str(read.program)
    assert caught.value.fix


def test_no_such_file(read):
    read("def to_sample(row):\n    return dict(instruction='q', output='a')\n")
    read.program.unlink()
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        list(iterate_mapped(Source(path=str(read.data), format=f"{read.program}:to_sample"), DataReport()))


def test_a_recipe_runs_without_its_bases(read):
    code = """
from mmengine.config import read_base
with read_base():
    from .nowhere import *
train.update(lr=1)
_SYSTEM = "s"
def to_sample(row):
    return dict(instruction=row["q"], output=row["a"], system=_SYSTEM)
data.sources = [dict(path="rows.jsonl", format=to_sample)]
"""
    assert read(code)[0][0][0].messages == (Message("system", "s"), *LEARNT)
    with pytest.raises(
        UsageError, match=r"no function other \(NameError in line 5: name 'train' is not defined\)"
    ):
        read(code, name="other")
