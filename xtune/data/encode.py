"""Rendered conversations to token ids and the mask of what is learnt.

The text is cut at the template's own control tokens and where loss begins or ends:

    <|im_start|> user\\nHi <|im_end|> \\n <|im_start|> assistant\\n Hello! <|im_end|> \\n
         0           0         0      0       0            0         1         1      0

Control tokens are looked up; what lies between is encoded by the tokenizer's model without any added
tokens, so nothing that a person types can become one. The cut before the answer is where generation starts
at inference: the model learns from exactly the ids it will be given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.render import Rendered, render
from xtune.templates.template import Template, find_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Encoded:
    """One conversation as the model reads it.

    input_ids   int32 [tokens]
    loss_mask   bool [tokens]: True where the model learns to write this token
    """

    input_ids: np.ndarray
    loss_mask: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def encode(
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    tokenizer: PreTrainedTokenizerFast,
    template: str | Template,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    **variables: Any,
) -> Encoded:
    """Messages as token ids and loss mask, in the given chat format; `variables` reach the template.

    Raises UsageError where the tokenizer lacks a control token of the template, DataError where the format
    cannot express the conversation.
    """
    if isinstance(template, str):
        template = find_template(template)
    rendered = render(
        messages, template=template, tools=tools, add_generation_prompt=add_generation_prompt, **variables
    )
    return encode_rendered([rendered], tokenizer, template)[0]


def encode_rendered(
    rendered: Iterable[Rendered], tokenizer: PreTrainedTokenizerFast, template: Template
) -> list[Encoded]:
    """Many conversations at once: the tokenizer works on all their pieces in parallel."""
    control_ids = _control_ids(tokenizer, template)
    cut = [_pieces(one) for one in rendered]
    texts = [text for pieces in cut for text, is_control, _ in pieces if not is_control]
    encodings = iter(plain_tokenizer(tokenizer).encode_batch_fast(texts, add_special_tokens=False))
    results = []
    for pieces in cut:
        ids: list[int] = []
        mask: list[bool] = []
        for text, is_control, learnt in pieces:
            new = [control_ids[text]] if is_control else next(encodings).ids
            ids += new
            mask += [learnt] * len(new)
        results.append(Encoded(np.array(ids, dtype=np.int32), np.array(mask, dtype=bool)))
    return results


def _pieces(rendered: Rendered) -> list[tuple[str, bool, bool]]:
    """(text, is a control token, carries loss), in order; nothing empty."""
    controls, learnt = set(rendered.control_spans), rendered.loss_spans
    cuts = sorted({0, len(rendered.text), *(end for span in (*controls, *learnt) for end in span)})
    pieces, position = [], 0
    for start, end in pairwise(cuts):
        while position < len(learnt) and learnt[position][1] <= start:
            position += 1
        with_loss = position < len(learnt) and learnt[position][0] <= start
        pieces.append((rendered.text[start:end], (start, end) in controls, with_loss))
    return pieces


def _control_ids(tokenizer: PreTrainedTokenizerFast, template: Template) -> dict[str, int]:
    vocabulary = _vocabulary(tokenizer)
    missing = [token for token in template.control_tokens if token not in vocabulary]
    if missing:
        raise UsageError(
            f"The tokenizer has no token {', '.join(missing)}, which the chat template {template.name} writes.",
            where="model.template",
            fix="Use the template this model was trained with.",
        )
    return {token: vocabulary[token] for token in template.control_tokens}


_PLAIN: WeakKeyDictionary[Any, Tokenizer] = WeakKeyDictionary()
_VOCABULARY: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def plain_tokenizer(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer without its added tokens: to it, `<|im_end|>` is ten ordinary characters."""
    if tokenizer not in _PLAIN:
        from tokenizers import Tokenizer

        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        _PLAIN[tokenizer] = Tokenizer.from_str(json.dumps(description))
    return _PLAIN[tokenizer]


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    if tokenizer not in _VOCABULARY:
        _VOCABULARY[tokenizer] = tokenizer.get_vocab()
    return _VOCABULARY[tokenizer]
