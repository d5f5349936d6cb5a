"""`xtune data show`: what is shown is what the model reads, and the marks stand where loss is."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtune.cli.data import select
from xtune.cli.data_show import View
from xtune.cli.main import main
from xtune.data.encoding.encode import encode_rendered
from xtune.messages import Message
from xtune.templates.render import render
from xtune.templates.template import find_template

ROWS = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}."} for n in range(4)]


@pytest.fixture
def show(tmp_path, tokenizer, monkeypatch, capsys):
    """show(row, …, args=[…]) shows a file of these rows: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xtune.families.tokenizer.load_tokenizer", lambda *_, **__: tokenizer)  # but once

    def show(*rows, args=()):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(SystemExit) as ended:
            main(["data", "show", "rows.jsonl", *map(str, args)])
        return ended.value.code, *capsys.readouterr()

    return show


def view(template="smollm2", *, colour=False):
    options = dict.fromkeys(("split", "encoding", "template", "model"))
    return View(find_template(template), select(["x"], format="auto", **options), False, colour)


def without_marks(text):
    text = re.sub(r"⟨typed (.*?)⟩", r"\1", text.replace("⟦", "").replace("⟧", ""))
    text = text.replace("↵\n", "\n").replace("␣", " ").replace("⇥", "\t")
    return re.sub(r"⟨U\+([0-9A-F]{4,6})⟩", lambda found: chr(int(found[1], 16)), text)


WORDS = st.text(max_size=12) | st.sampled_from(
    [
        " \n",
        "a\t",
        "<|im_end|>",
        "⟦x⟧",
        "⟨U+0041⟩",
        "␣ ↵",
        "\x1b[31m",
        "\xa0",
        "a\r\n",
        "‮",
        "<|im_start|>user\n",
    ]
)


@settings(max_examples=50)
@given(st.lists(st.tuples(WORDS, st.booleans()), min_size=1, max_size=4))
@pytest.mark.parametrize("template", ["smollm2", "llama2", "chatglm3", "qwen3"])
def test_marks_take_nothing_away_and_stand_where_loss_is(template, said):
    messages = [
        message
        for words, loss in said
        for message in (Message("user", "?" + words), Message("assistant", words + ".", loss=loss))
    ]
    rendered = render(messages, template=template)
    shown = view(template).text(rendered)
    assert without_marks(shown) == rendered.text
    learnt = [rendered.text[start:end] for start, end in rendered.loss_spans]
    assert [without_marks(part) for part in re.findall("⟦(.*?)⟧", shown, re.S)] == learnt
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\xa0\u202e\u2066-\u2069]", shown)
    coloured = view(template, colour=True).text(rendered)
    assert without_marks(re.sub("\x1b\\[[0-9;]*m", "", coloured)) == rendered.text
    green = re.findall("\x1b\\[32m(?:\x1b\\[1m)?(.*?)\x1b\\[0m", coloured, re.S)
    assert without_marks("".join(green)) == "".join(learnt)


def test_what_matters_is_seen():
    messages = [
        Message("user", "Hi \n"),
        Message("assistant", "\n a  b\t\n"),
        Message("user", "<|im_end|>\u200b"),
    ]
    shown = view().text(render(messages, template="smollm2"))
    assert "<|im_start|>user\nHi␣↵\n<|im_end|>\n<|im_start|>assistant\n⟦↵\n␣a  b⇥↵\n<|im_end|>⟧\n" in shown
    assert "user\n⟨typed <|im_end|>⟩⟨U+200B⟩<|im_end|>" in shown


@pytest.fixture
def with_ids(tokenizer, monkeypatch):
    """with_ids(messages) shows them, as written for SmolLM2: the encoded text, the title and the tokens."""
    monkeypatch.setattr("xtune.families.tokenizer.load_tokenizer", lambda *_, **__: tokenizer)
    one = view()

    def with_ids(*messages, template=one.template):
        rendered = render(messages, template=template)
        (encoded,) = encode_rendered([rendered], tokenizer, template)
        return encoded, *replace(one, template=template).tokens(rendered).split("\n", 1)

    return with_ids


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(WORDS)
def test_ids_are_those_of_the_text(with_ids, words):
    encoded, title, shown = with_ids(Message("user", "?"), Message("assistant", f"你好 🙂 {words}."))
    assert title == f"{len(encoded)} tokens, {encoded.loss_mask.sum()} with loss:"
    tokens = re.findall(r'(⟦?)(\d+):("(?:[^"\\]|\\.)*")(⟧?)', shown)
    assert [int(token[1]) for token in tokens] == encoded.input_ids.tolist()
    learnt, inside = [], False
    for begins, _, text, ends in tokens:
        inside = inside or bool(begins)
        learnt.append(inside)
        inside = inside and not ends
        assert json.loads(text)
    assert learnt == encoded.loss_mask.tolist()
    assert all(len(line) <= 120 for line in shown.split("\n"))


def test_a_label_that_is_another_token_is_shown(with_ids):
    template = replace(find_template("smollm2"), labels={"<|im_end|>": "<|endoftext|>"})
    _, _, shown = with_ids(Message("user", "?"), Message("assistant", "Hi"), template=template)
    assert shown.split()[-3:] == ['⟦26843:"Hi"', '2:"<|im_end|>"->0⟧', '198:"\\n"']


def test_records_are_shown_in_turn(show):
    code, out, err = show(*ROWS, args=["-n", 2, "--skip", 1])
    assert (code, err) == (0, "")
    assert "template smollm2" in out
    assert "⟦learnt (carries loss)⟧" in out
    assert "rows.jsonl: alpaca (4 of the first 4 rows have instruction, input, output)" in out
    assert re.findall(r"── (.*)", out) == ["rows.jsonl:2  conversation", "rows.jsonl:3  conversation"]
    assert "<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n⟦It is 1.<|im_end|>⟧\n" in out
    assert '"It"' not in out
    assert '⟦1589:"It"' in show(ROWS[0], args=["--ids"])[1]
    code, _, err = show(*ROWS, args=["--skip", 9])
    assert code == 2
    assert "--skip" in err


def test_rejected_and_repaired_records_are_told(show):
    _, out, _ = show("{broken", {**ROWS[0], "output": ""}, {**ROWS[1], "input": 3, "output": " x"})
    assert "── rows.jsonl:1  rejected: not JSON (Expecting property name" in out
    assert "── rows.jsonl:2  rejected: empty answer\n" in out
    assert "repaired: number in input taken as text\n" in out
    assert "kept as it is: white space before or after what is said\n" in out
    assert "⟦␣x<|im_end|>⟧" in out


TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def test_every_kind_of_sample(show):
    _, pair, _ = show({"prompt": "Hi", "chosen": "Yes.", "rejected": "No."})
    assert re.findall(r"── (.*)", pair) == ["rows.jsonl:1  preference pair", "chosen", "rejected"]
    assert pair.index("── chosen") < pair.index("⟦Yes.") < pair.index("── rejected") < pair.index("⟦No.")
    _, labelled, _ = show({"messages": TURNS, "label": False})
    assert "labelled answer: bad" in labelled
    _, document, _ = show({"text": "Once."})
    assert "── rows.jsonl:1  document\n⟦Once.<|im_end|>⟧" in document
    _, turns, _ = show({"messages": TURNS * 2}, args=["--template", "qwen3"])
    assert re.findall(r"── (turn.*)", turns) == ["turn 1 of 2", "turn 2 of 2"]
    assert "template qwen3 (as named)\n" in turns


def test_a_template_of_another_tokenizer_can_be_looked_at(show):
    code, out, _ = show(*ROWS, args=["--template", "internlm2", "-n", 1])
    assert code == 0
    assert "<s><|im_start|>user\nWhat is 0?" in out
    code, _, err = show(*ROWS, args=["--template", "internlm2", "--ids"])
    assert code == 2
    assert "no token <s>" in err


def test_a_system_prompt_that_the_format_adds_is_told(show):
    own = {"context": "CREATE TABLE t (a)", "question": "How many?", "answer": "SELECT COUNT(*) FROM t"}
    _, out, _ = show(own, args=["--format", "sql"])
    assert "the system prompt is not in the row: sql adds it\n" in out
    said = {"messages": [{"role": "system", "content": 'Be "kind".\n'}, *TURNS]}
    assert "not in the row" not in show(said)[1]
    assert (
        "not in the row"
        not in show({"messages": json.dumps(said["messages"])}, args=["--format", "messages"])[1]
    )


def test_what_cannot_be_read(show):
    code, _, err = show("")
    assert code == 3
    assert "rows.jsonl" in err
