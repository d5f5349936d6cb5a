"""Each step removes what it says and nothing else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.data.clean.contamination import Contamination
from xtune.data.clean.exact import ExactDuplicates
from xtune.data.clean.near import FRAME_ROWS, fingerprint, near_duplicates
from xtune.data.clean.row import make_row
from xtune.data.clean.rules import boilerplate, length, repetition, symbols
from xtune.messages import Document, Labelled, Message, Pair, Prompt, Sample


def row(question="What is it?", answer="It is a cat.", place="a:1", system=None):
    messages = [Message("user", question), Message("assistant", answer)]
    return make_row(place, None, [Sample((*([Message("system", system)] if system else []), *messages))])


def words(seed, n):
    return [f"w{number}" for number in random.Random(seed).choices(range(10**6), k=n)]


def near(rows, threshold=0.7):
    return list(near_duplicates([fingerprint(each) for each in rows], threshold))


# Exact duplicates


@pytest.mark.parametrize("answer", ["It  is\na cat. ", "IT IS A CAT.", "Ｉｔ is a cat."])
def test_white_space_case_and_form_do_not_tell_rows_apart(answer):
    step = ExactDuplicates()
    assert step(row()) is None
    assert step(row(answer=answer, place="a:2")).duplicate_of == "a:1"


def test_anything_else_tells_rows_apart():
    tools = ({"type": "function", "function": {"name": "cat"}},)
    turns = (Message("user", "q"), Message("assistant", "a"))
    samples = [
        Sample(turns),
        Sample(turns, tools),
        Sample((Message("system", "s"), *turns)),
        Sample((Message("user", "q"), Message("assistant", "a", reasoning="r"))),
        Sample(
            (Message("user", "q"), Message("assistant", "", tool_calls=({"name": "a", "arguments": {}},)))
        ),
        Labelled(turns, True),
        Labelled(turns, False),
        Pair(turns[:1], turns[1:], (Message("assistant", "b"),)),
        Pair(turns[:1], turns[1:], (Message("assistant", "c"),)),
        Prompt(turns[:1], 1),
        Prompt(turns[:1], 2),
        Document("q"),
        Document("a"),
    ]
    step = ExactDuplicates()
    assert not [sample for n, sample in enumerate(samples) if step(make_row(f"a:{n}", None, [sample]))]


# Near duplicates


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), changed=st.integers(0, 39), chinese=st.booleans())
def test_one_word_of_forty_is_no_difference(seed, changed, chinese):
    text = words(seed, 40) if not chinese else [chr(0x4E00 + n % 20000) for n in range(seed, seed + 40)]
    other = [*text[:changed], "新" if chinese else "other", *text[changed + 1 :]]
    join = "".join if chinese else " ".join
    first, second = (row(join(part[:20]), join(part[20:]), f"a:{n}") for n, part in enumerate((text, other)))
    stays, why = near([first, second])
    assert stays is None
    assert why.duplicate_of == "a:0"
    assert 0.7 <= why.similarity < 1


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=20, unique=True))
def test_unrelated_rows_stay(seeds):
    assert not any(near([row(" ".join(words(seed, 9)), " ".join(words(-seed - 1, 30))) for seed in seeds]))


def test_similarity_is_the_jaccard_index():
    text = words(1, 48)
    question = " ".join(words(2, 5))  # one 5-gram
    # 44 5-grams of the answer, the last of which differs.
    _, why = near([row(question, " ".join(text)), row(question, " ".join([*text[:-1], "other"]))])
    assert why.similarity == round(44 / 46, 3)


def test_threshold_decides():
    question = " ".join(words(1, 30))
    rows = [row(question, " ".join(words(2, 40))), row(question, " ".join([*words(2, 36), *words(3, 4)]))]
    similarity = (26 + 32) / (26 + 40)
    assert near(rows, similarity - 0.01)[1]
    assert not near(rows, similarity + 0.01)[1]


def test_other_answers_or_other_questions_are_other_rows():
    text = " ".join(words(1, 300))
    assert not any(near([row(f"{text} Who is it?", "Bob Dylan"), row(f"{text} When was it?", "In 1969")]))
    assert not any(near([row("Who are you?", text), row("Hello", text), row("What is your name?", text)]))


def test_rows_of_one_instruction_stay():
    instruction = " ".join(words(1, 100))
    rows = [
        row(f"{instruction} {' '.join(words(seed, 8))}", "positive") for seed in range(10, FRAME_ROWS + 20)
    ]
    assert not any(near(rows))


def test_system_prompt_does_not_make_rows_alike():
    system = " ".join(words(1, 300))
    assert not any(
        near([row(" ".join(words(seed, 20)), " ".join(words(-seed, 20)), system=system) for seed in (2, 3)])
    )


def test_chain_of_changes_does_not_remove_its_end():
    text = words(1, 200)
    chain = [[*words(n + 2, 10 * n), *text[10 * n :]] for n in range(5)]
    removed = near(
        [row("the same question as ever", " ".join(link), f"a:{n}") for n, link in enumerate(chain)]
    )
    assert [why and why.duplicate_of for why in removed[:2]] == [None, "a:0"]
    assert removed[4] is None


def test_operators_tell_rows_apart():
    assert not any(near([row("Factor x^2 + 2x", "x(x + 2)"), row("Factor x^2 - 2x", "x(x - 2)")]))


def test_rows_without_words_stay():
    assert not any(near([row("?", "!"), row("?!", "...")]))


# Rules


def test_length_counts_characters_without_outer_space():
    assert length(row(answer=" 12345\n"), 5, 5) is None
    assert length(row(answer="1234"), 5, None).reason == "answer too short"
    assert length(row(answer="123456"), 1, 5).detail == "6 characters"


def test_share_of_symbols():
    assert symbols(row(answer="ab +" * 50), 0.34) is None
    assert symbols(row(answer="ab +" * 50), 0.33).detail == "33% of the answer"
    assert symbols(row(answer="+" * 99), 0.9) is None  # too short to say
    assert symbols(row(answer="हिन्दी में उत्तर " * 10), 0.01) is None  # marks on letters are no symbols


def test_repeated_lines():
    lines = ["a line that comes again", *(f"line {n} of its own, unlike the rest" for n in range(5))]
    assert repetition(row(answer="\n".join(lines)), 0.01) is None
    assert (
        "90% of the answer is repeated lines" in repetition(row(answer="the same line\n" * 10), 0.89).detail
    )
    assert repetition(row(answer="the same line\n" * 10), 0.9) is None


def test_repeated_words():
    loop = row(answer="I think that " * 40)
    assert "10-grams" in repetition(loop, 0.9).detail
    assert "10-grams" in repetition(row(answer="我觉得很好" * 40), 0.9).detail
    assert repetition(row(answer=" ".join(words(1, 200))), 0.01) is None


def test_rules_leave_rows_without_an_answer():
    prompt = make_row("a:1", None, [Prompt((Message("user", "Prove it."),), 42)])
    assert not any(
        (length(prompt, 10, 20), symbols(prompt, 0.1), repetition(prompt, 0.1), boilerplate(prompt))
    )


def test_rules_leave_answers_that_are_to_be_avoided():
    question, loop = (Message("user", "Prove it."),), (Message("assistant", "no " * 100),)
    pair = Pair(question, (Message("assistant", "It is so by definition."),), loop)
    for sample, removed in (
        (pair, False),
        (Labelled(question + loop, False), False),
        (Labelled(question + loop, True), True),
    ):
        assert bool(repetition(make_row("a:1", None, [sample]), 0.75)) == removed


def test_pairs_with_another_rejected_answer_are_other_rows():
    question, chosen = (
        (Message("user", " ".join(words(1, 20))),),
        (Message("assistant", " ".join(words(2, 20))),),
    )
    pairs = [Pair(question, chosen, (Message("assistant", " ".join(words(seed, 20))),)) for seed in (3, 4)]
    assert not any(near([make_row("a:1", None, [pair]) for pair in pairs]))


def test_defaults_leave_code_tables_and_lists():
    table = "| x | y |\n|---|---|\n" + "\n".join(f"| {n} | {n * n} |" for n in range(20))
    html = "<table>\n" + "  <tr>\n    <td></td>\n  </tr>\n" * 3 + "</table>\n<p>Some text.</p>"
    for answer in (table, html, "print('Hello')\n" * 3, "- yes\n- no\n" * 4):
        assert symbols(row(answer=answer), 0.9) is None
        assert repetition(row(answer=answer), 0.75) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("As an AI language model, I have no feelings.", "speaks as an AI model"),
        ("作为一个人工智能语言模型，我没有感情。", "speaks as an AI model"),
        ("I’m sorry, but I cannot help with that.", "refuses"),
        ("对不起，我无法回答。", "refuses"),
        ("Please enable JavaScript to view the page.", "is left over from a web page"),
    ],
)
def test_boilerplate(answer, reason):
    assert boilerplate(row(answer=answer)).reason == f"boilerplate: {reason}"


@pytest.mark.parametrize(
    "answer", ["An AI model is a program.", "I'm sorry to hear that.", "人工智能正在改变世界。"]
)
def test_what_is_no_boilerplate(answer):
    assert boilerplate(row(answer=answer)) is None


# Contamination


@pytest.mark.parametrize("where", ["question", "answer"])
def test_passage_of_the_held_out_set_is_found_from_13_words_on(where):
    step = Contamination([row(" ".join(words(1, 40)), place="test:7")])
    for count, found in ((13, True), (12, False)):
        text = " ".join(["before", *words(1, 20)[-count:], "after"])
        why = step(row(**{where: text}))
        assert bool(why) == found
    assert "test:7" in step(row(**{where: " ".join(words(1, 40)).upper()})).detail


def test_passage_of_characters_is_longer():
    text = "".join(chr(0x4E00 + 7 * n) for n in range(60))
    step = Contamination([row(text)])
    assert step(row(answer=f"前{text[10:30]}后"))
    assert not step(row(answer=f"前{text[10:29]}后"))


def test_short_question_of_the_held_out_set_is_found():
    step = Contamination([row("What is the capital of France?", "Paris", "test:1")])
    assert step(row("what is the capital of  France?", "It is Paris.")).detail == "the question of test:1"
    assert not step(row("What is the capital of Spain?", "Paris"))


def test_system_prompts_are_no_contamination():
    system = " ".join(words(1, 50))
    assert not Contamination([row(system=system)])(row("Another?", "Yes.", system=system))
