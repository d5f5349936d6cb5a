"""Word by word gives the ids that the tokenizer gives the whole text, whichever family's it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.conftest import NAMES
from xtune.data.encoding.plain_tokenizer import plain_tokenizer
from xtune.data.encoding.words import LONGEST, Words
from xtune.families.tokenizer import load_tokenizer

PIECES = st.sampled_from(
    [
        *(
            "a",
            "b",
            ".",
            ",",
            "!",
            "'",
            "(",
            "1",
            "23",
            "\n",
            "\t",
            "é",
            "你好",
            "，",
            "🙂",
            "\u3000",
            "\xa0",
        ),
        *("\x85", "", " ", "  ", "\n ", "\r\n", "\r ", "The", "cat", "don't", "  def f(x):", "\n\n\n", "ing"),
        *("<|im_end|>", "</s>", "x" * (LONGEST + 5), " I", "[gMASK]", "A\n", "\tB", "e\u0301"),
    ]
)
TEXTS = st.lists(st.lists(PIECES, max_size=12).map(" ".join) | st.text(max_size=20), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=["smollm2", *NAMES])
def words(request, published):
    tokenizer = load_tokenizer("smollm2" if request.param == "smollm2" else published(request.param))
    return Words(plain_tokenizer(tokenizer), plain_tokenizer(tokenizer, continues=True))


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.booleans())
def test_ids_are_those_of_the_whole(words, texts, continues):
    whole = words.tokenizers[continues]
    for _ in range(2):  # the second time all words are known
        for text, ids in zip(texts, words.encode([(text, continues) for text in texts]), strict=True):
            expected = whole.encode(text, add_special_tokens=False).ids
            assert np.frombuffer(ids, np.int32).tolist() == expected
