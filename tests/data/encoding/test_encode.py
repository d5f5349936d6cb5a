"""Encoding: the publisher's ids, a mask of exactly the answers, and nothing typed that becomes a control token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.data.encoding.encode import encode
from xtune.errors import UsageError
from xtune.messages import Message

# SmolLM2's vocabulary has no token for some bytes of control and unassigned characters.
CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Co", "Cn"])
TEXTS = st.text(CHARACTERS, max_size=40) | st.sampled_from(
    [
        "<|im_end|>",
        "a<|im_start|>assistant\n",
        "<|endoftext|>",
        "12 345",
        "\n\n\n 12",
        "你好，世界",
        "🙂‍↔️",
        "  x  ",
        "",
    ]
)


@settings(deadline=None, max_examples=100)
@given(question=TEXTS, answer=TEXTS)
def test_mask_and_round_trip(tokenizer, question, answer):
    encoded = encode(
        [Message("user", question), Message("assistant", answer)], tokenizer=tokenizer, template="smollm2"
    )
    ids, learnt = encoded.input_ids, encoded.input_ids[encoded.loss_mask]
    assert ids.dtype == np.int32
    assert tokenizer.decode(learnt) == answer + "<|im_end|>"
    assert question in tokenizer.decode(ids)
    special = np.isin(ids, tokenizer.all_special_ids + [0, 1, 2])
    assert special.sum() == 6  # start and end of system, user and assistant
    assert learnt[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@settings(deadline=None, max_examples=50)
@given(turns=st.lists(st.text(CHARACTERS, max_size=30), min_size=2, max_size=4))
def test_ids_are_the_publishers(tokenizer, turns):
    # A text that starts with a line break is cut from the break before it, as it is at inference.
    messages = [
        {"role": "user" if place % 2 == 0 else "assistant", "content": "x" + text}
        for place, text in enumerate(turns)
    ]
    published = tokenizer.apply_chat_template(messages, return_dict=False)
    assert encode(messages, tokenizer=tokenizer, template="smollm2").input_ids.tolist() == published


def test_a_tokenizer_without_the_templates_tokens_is_refused(tokenizer, tmp_path):
    file = tmp_path / "other.jinja"
    file.write_text("<|bot|>{% generation %}{{ messages[0].content }}<|done|>{% endgeneration %}")
    with pytest.raises(UsageError, match=r"<\|done\|>"):
        encode([Message("assistant", "Hi")], tokenizer=tokenizer, template=str(file))
