"""Formats with question and answer in columns of their own: which words end up where."""

import pytest

from tests.data.mappers.examples import EXAMPLES
from tests.data.mappers.test_all import BY_NAME, mapped
from xtune.data.findings import Findings, Reject, default_actions
from xtune.messages import Message

USER, ANSWER = Message("user", "q"), Message("assistant", "a")


def system(words):
    return Message("system", words)


def turns(name, row):
    [sample] = mapped(BY_NAME[name], row)
    return list(sample.messages)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "i", "input": "x", "output": "a"}, [Message("user", "i\nx"), ANSWER]),
        ({"instruction": "q", "input": "", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "input": None, "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "", "input": "q", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "input": "<noinput>", "output": "a"}, [USER, ANSWER]),
        ({"instruction": "q", "output": "<nooutput>"}, [USER, Message("assistant", "")]),
        (
            {"instruction": " q\n", "output": " a \n"},
            [Message("user", " q\n"), Message("assistant", " a \n")],
        ),
        ({"instruction": 12, "output": 0.5}, [Message("user", "12"), Message("assistant", "0.5")]),
        ({"instruction": "q", "output": "a", "system": "s"}, [system("s"), USER, ANSWER]),
        ({"instruction": "q", "output": "a", "system": "", "history": []}, [USER, ANSWER]),
        (
            {"instruction": "i", "output": "o", "history": [["q", "a"]], "system": "s"},
            [system("s"), USER, ANSWER, Message("user", "i"), Message("assistant", "o")],
        ),
        (
            {"instruction": "i", "output": "o", "history": '[["q", "a"]]'},
            [USER, ANSWER, Message("user", "i"), Message("assistant", "o")],
        ),
    ],
)
def test_alpaca(row, expected):
    assert turns("alpaca", row) == expected


@pytest.mark.parametrize(
    ("name", "row", "defect", "reason"),
    [
        ("alpaca", {"instruction": "q"}, "wrong_columns", 'no column "output"'),
        ("alpaca", {"instruction": ["q"], "output": "a"}, "wrong_type", "instruction is a list, not text"),
        ("alpaca", {"instruction": "q", "output": True}, "wrong_type", "output is true, not text"),
        (
            "alpaca",
            {"instruction": "q", "output": "a", "history": [["q"]]},
            "wrong_type",
            "history is not a list of [question, answer]",
        ),
        ("alpaca", "text", "wrong_columns", "the row is text, not an object"),
        (
            "prompt_completion",
            {"prompt": "q"},
            "wrong_columns",
            "no column for the question, or none for the answer",
        ),
        (
            "self_instruct",
            {"instruction": "q", "instances": {}},
            "wrong_type",
            "instances is not a list of objects",
        ),
        ("law_reference", {"question": "q", "answer": "a"}, "wrong_columns", 'no column "reference"'),
    ],
)
def test_rejects(name, row, defect, reason):
    with pytest.raises(Reject) as caught:
        mapped(BY_NAME[name], row)
    assert (caught.value.defect, caught.value.reason) == (defect, reason)


def test_repairs_are_said_and_may_be_refused():
    row = {"instruction": 1, "input": "<noinput>", "output": "a"}
    found = Findings()
    mapped(BY_NAME["alpaca"], row, found)
    assert list(found.repairs) == ["number in instruction taken as text", 'input "<noinput>" taken as empty']
    with pytest.raises(Reject):
        mapped(BY_NAME["alpaca"], row, Findings({**default_actions(), "not_text": "drop"}))


@pytest.mark.parametrize(
    ("name", "row", "expected"),
    [
        (
            "prompt_completion",
            {"context": "c", "question": "q", "answer": "a"},
            [Message("user", "c\nq"), ANSWER],
        ),
        (
            "prompt_completion",
            {"question": "q", "answer": "a", "reference": ["c", "d"]},
            [Message("user", "c\nd\nq"), ANSWER],
        ),
        ("prompt_completion", {"question": "q", "answer": "a", "reference": "page 3"}, [USER, ANSWER]),
        ("prompt_completion", {"system_prompt": "", "question": "q", "response": "a"}, [USER, ANSWER]),
        ("openorca", {"system_prompt": "s", "question": "q", "response": "a"}, [system("s"), USER, ANSWER]),
        (
            "default_map_fn",
            {"instruction": "i", "input": "x", "output": "a"},
            [Message("user", "i\nx"), ANSWER],
        ),
        ("firefly", {"conversation": [{"human": "q", "assistant": "a"}]}, [USER, ANSWER]),
        (
            "law_reference",
            {"question": "q", "answer": "a", "reference": "c", "system": "s"},
            [system("s"), Message("user", "c\nq"), ANSWER],
        ),
        ("code_alpaca", {"prompt": "q", "completion": "a"}, [USER, ANSWER]),
        ("code_alpaca", {"instruction": "q", "input": "", "output": "a"}, [USER, ANSWER]),
        ("code_alpaca", {"prompt": "q", "completion": "a", "system": "s"}, [system("s"), USER, ANSWER]),
        (
            "guanaco_zh",
            {"instruction": "System: s\nUser: q\nAssistant:a\nmore", "input": "User：i", "output": "o"},
            [
                system("s"),
                USER,
                Message("assistant", "a\nmore"),
                Message("user", "i"),
                Message("assistant", "o"),
            ],
        ),
        (
            "guanaco_zh",
            {"instruction": "Who speaks?", "input": "User: q", "output": "a"},
            [Message("user", "Who speaks?\nUser: q"), ANSWER],
        ),
        (
            "guanaco_zh",
            {"instruction": "User: q\nAssistant: a", "input": "", "output": "a"},
            [Message("user", "User: q\nAssistant: a"), ANSWER],
        ),
    ],
)
def test_what_is_put_together(name, row, expected):
    mapper = BY_NAME.get(name) or next(mapper for mapper in BY_NAME.values() if name in mapper.aliases)
    [sample] = mapped(mapper, row)
    assert list(sample.messages) == expected


@pytest.mark.parametrize(
    "name",
    ["code_alpaca", "tiny_codes", "sql", "arxiv", "medical", "crime_kg_assistant", "law_reference", "colors"],
)
def test_named_formats_bring_a_system_prompt(name):
    prompt = BY_NAME[name].system
    assert prompt == prompt.strip() != ""
    for row in EXAMPLES[name]:
        assert [turn.role for turn in turns(name, row)] == ["user", "assistant"]


def test_columns_with_two_answers_are_not_guessed_at():
    row = {"question": "q", "answer": "a", "response": "b"}
    assert not BY_NAME["prompt_completion"].fits(row)


def test_both_languages_in_a_row_must_be_chosen_from():
    row = {
        f"{column}{end}": column + end for column in ("instruction", "input", "output") for end in ("", "_zh")
    }
    assert [name for name in ("alpaca", "alpaca_zh") if BY_NAME[name].fits(row)] == ["alpaca", "alpaca_zh"]
    assert turns("alpaca_zh", row)[0] == Message("user", "instruction_zh\ninput_zh")


def test_self_instruct_gives_a_sample_for_each_instance():
    row = {"instruction": "i", "instances": [{"input": "x", "output": "a"}, {"input": "", "output": "b"}]}
    samples = mapped(BY_NAME["self_instruct"], row)
    assert [[turn.content for turn in sample.messages] for sample in samples] == [["i\nx", "a"], ["i", "b"]]


def test_arxiv_lines_are_unfolded():
    row = {"title": "Long\n  titles", "abstract": "  One line\nfolded here.\n  A new paragraph.\n"}
    assert [turn.content for turn in turns("arxiv", row)] == [
        "One line folded here.\nA new paragraph.",
        "Long titles",
    ]


@pytest.mark.parametrize(
    ("description", "asked"),
    [("Teal: blue: and green", "blue: and green"), ("no name", "no name"), ("Teal:", "Teal"), ("", "")],
)
def test_colors_leave_the_name_out(description, asked):
    assert turns("colors", {"description": description, "color": "#008080"})[0].content == asked


def test_an_answer_of_xtuners_may_carry_no_loss():
    row = {
        "conversation": [
            {"input": "q", "output": "a", "output_with_loss": False},
            {"input": "q", "output": "a"},
        ]
    }
    assert [turn.loss for turn in turns("xtuner", row)] == [True, False, True, True]


def test_prompt_and_completion_as_messages_keep_their_tools():
    call = {"name": "f", "arguments": {"x": 1}}
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "tool_calls": [{"function": call}]}],
        "tools": [{"name": "f"}],
    }
    [sample] = mapped(BY_NAME["prompt_completion"], row)
    assert sample.messages == (system("s"), USER, Message("assistant", "", tool_calls=(call,)))
    assert sample.tools == ({"type": "function", "function": {"name": "f"}},)
