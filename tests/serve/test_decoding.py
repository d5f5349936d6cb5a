"""Characters of many bytes, through the real tokenizer."""

from hypothesis import assume, given
from hypothesis import strategies as st

from xtune.serve.answer import Answer
from xtune.templates.template import find_template


@given(text=st.text(max_size=20))
def test_text_comes_in_whole_characters(tokenizer, text):
    answer = Answer(tokenizer, find_template("smollm2"))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    text = tokenizer.decode(ids, skip_special_tokens=True)  # less what it does not know
    assume("\ufffd" not in text)
    for token in ids:
        assert not answer.take(token)
        assert text.startswith(answer.so_far().content)
    assert answer.whole().content == text
