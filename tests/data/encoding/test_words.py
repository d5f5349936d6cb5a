"""Words are remembered where that changes nothing, and can be sent to another process."""

import pickle

import numpy as np

from xtune.data.encoding.plain_tokenizer import plain_tokenizer
from xtune.data.encoding.words import LONGEST, Words


def test_byte_level_tokenizers_are_cut_and_may_be_sent(tokenizer):
    plain = plain_tokenizer(tokenizer)
    words = Words(plain, plain_tokenizer(tokenizer, continues=True))
    assert words.word_by_word
    text = [("The cat saw the cat.", False)]
    assert pickle.loads(pickle.dumps(words)).encode(text) == words.encode(text)


def test_long_words_are_not_remembered(tokenizer):
    words = Words(plain_tokenizer(tokenizer), plain_tokenizer(tokenizer, continues=True))
    words.encode([("x" * 1000 + " " + "y" * 1000 + " short", False)])
    assert max(map(len, [*words._after, *words._first[0], *words._first[1]])) <= LONGEST


def test_a_vocabulary_that_reaches_over_spaces_is_not_cut():
    from tokenizers import Tokenizer, models

    vocabulary = {"a": 0, " ": 1, "b": 2, "a ": 3, "a b": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", " "), ("a ", "b")]))
    words = Words(tokenizer, tokenizer)
    assert not words.word_by_word
    assert np.frombuffer(words.encode([("a b", False)])[0], np.int32).tolist() == [4]
