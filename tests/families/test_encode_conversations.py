"""Random conversations in every family's tokenizer and template: nothing said is lost, and loss is on the assistant's
words and stop tokens, all of them and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.families.conftest import NAMES
from xtune.data.encoding.encode import Encoder
from xtune.families.choose_template import choose_template
from xtune.families.tokenizer import load_tokenizer
from xtune.messages import Message, Sample

# Words that no vocabulary lacks, and what looks like a control token; the marks tell the turns apart.
WORDS = st.lists(
    st.sampled_from(["the", "cat", "12", "你好", "a,", "x=1", "<|im_end|>", "</s>", "[INST]", "\n", "Hi!"]),
    min_size=1,
    max_size=6,
).map(" ".join)
TALKS = st.tuples(st.none() | WORDS, st.lists(st.tuples(WORDS, WORDS, st.booleans()), min_size=1, max_size=3))


@pytest.fixture(scope="module", params=["smollm2", *NAMES])
def encoder(request, published):
    path = "smollm2" if request.param == "smollm2" else published(request.param)
    tokenizer = load_tokenizer(path)
    from xtune.families.embedded import model_directory

    template = choose_template("auto", model_directory(path)).template
    return tokenizer, Encoder.of(tokenizer, template)


def sample_of(talk) -> Sample:
    system, turns = talk
    messages = [Message("system", system)] if system else []
    for number, (question, answer, loss) in enumerate(turns):
        messages.append(Message("user", f"Q{number} {question} end"))
        messages.append(
            Message("assistant", f"A{number} {answer} end", loss=loss or number == len(turns) - 1)
        )
    return Sample(tuple(messages))


def squeezed(text: str) -> str:
    return re.sub(r"[\s\u2581]+", "", text)


@settings(max_examples=25, deadline=None)
@given(TALKS)
def test_nothing_is_lost_and_loss_is_where_it_belongs(encoder, talk):
    tokenizer, encoder = encoder
    sample = sample_of(talk)
    try:
        texts = encoder.pieces(sample)
    except Exception as error:  # a format without system prompts, or that cannot leave turns without loss
        assert "cannot" in str(error)  # noqa: PT017
        return
    wanted = [turn.content for turn in sample.messages if turn.role == "assistant" and turn.loss]
    learnt = []
    plain = encoder.words.tokenizers[0]
    for encoded in encoder.encode_pieces(texts):
        text = squeezed(tokenizer.decode(encoded.input_ids))
        for turn in sample.messages[: 2 if encoder.template.one_turn else None]:
            assert squeezed(turn.content) in text
        mask = encoded.loss_mask
        stops = {tokenizer.convert_tokens_to_ids(token) for token in encoder.template.stop_tokens}
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
        for start, end in edges.reshape(-1, 2):
            ids = encoded.labels[start:end].tolist()
            assert ids[-1] in stops
            learnt.append(squeezed(plain.decode(ids[:-1], skip_special_tokens=False)))
    assert learnt == [squeezed(words) for words in wanted]
