"""Rendered conversations to token ids and the mask of what is learnt.

The text is cut at the template's own control tokens and where loss begins or ends:

    <|im_start|> user\\nHi <|im_end|> \\n <|im_start|> assistant\\n Hello! <|im_end|> \\n
         0           0         0      0       0            0         1         1      0

Control tokens are looked up; what lies between is encoded by the tokenizer's model without any added
tokens, so nothing that a person types can become one. The cut before the answer is where generation starts
at inference: the model learns from exactly the ids it will be given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from xtune.data.plain_tokenizer import plain_tokenizer
from xtune.errors import UsageError
from xtune.messages import Message
from xtune.templates.render import Rendered, render
from xtune.templates.template import Template, find_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NO_LABEL = -100
"""The label where there is no loss, as PyTorch's cross entropy has it."""


@dataclass(frozen=True)
class Encoded:
    """One conversation as the model reads it.

    input_ids   int32 [tokens]
    labels      int32 [tokens]: what the model learns to write at this place, NO_LABEL where nothing. Nearly
                always the token itself; Baichuan has the stop token as the label of the next role token
    """

    input_ids: np.ndarray
    labels: np.ndarray

    @property
    def loss_mask(self) -> np.ndarray:
        """bool [tokens]: True where the model learns."""
        return self.labels != NO_LABEL

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
    vocabulary = vocabulary_of(tokenizer)
    control_ids = {token: vocabulary[token] for token in template.guarded_tokens if token in vocabulary}
    labels = {control_ids.get(token): vocabulary.get(label) for token, label in template.labels.items()}
    # what people see as text although the template has a token for it, where the tokenizer has none
    as_text = set(template.optional_tokens) - set(control_ids)
    greedy = {token.content for token in tokenizer.added_tokens_decoder.values() if token.rstrip}
    cut = [_pieces(one, as_text, greedy) for one in rendered]
    _check_known(cut, control_ids, template)
    encoded = {}
    for continues in (False, True):
        texts = list({piece.text for pieces in cut for piece in pieces if piece.continues is continues})
        plain = plain_tokenizer(tokenizer, continues=continues)
        for text, encoding in zip(
            texts, plain.encode_batch_fast(texts, add_special_tokens=False), strict=True
        ):
            encoded[text, continues] = encoding.ids
    results = []
    for pieces in cut:
        ids: list[int] = []
        learnt: list[int] = []
        for piece in pieces:
            if piece.continues is None:
                new = [control_ids[piece.text]]
                as_label = [labels.get(new[0], new[0])]
            else:
                new = as_label = encoded[piece.text, piece.continues]
            ids += new
            learnt += as_label if piece.learnt else [NO_LABEL] * len(new)
        results.append(Encoded(np.array(ids, dtype=np.int32), np.array(learnt, dtype=np.int32)))
    return results


class _Piece(NamedTuple):
    """What is encoded at once. `continues`: None for a control token; True where text goes on from the piece
    before, so that no space is put in front; False where the publisher's code starts to encode."""

    text: str
    continues: bool | None
    learnt: bool


def _pieces(rendered: Rendered, as_text: Set[str], greedy: Set[str]) -> list[_Piece]:
    """The conversation in pieces, in order; nothing empty. Tokens in `greedy` take white space behind them with
    them, as Phi-3's do; but not an answer's own, which is learnt as it will be written."""
    controls = {span for span in rendered.control_spans if rendered.text[slice(*span)] not in as_text}
    learnt, fresh = rendered.loss_spans, {0, *rendered.cuts, *(end for _, end in controls)}
    cuts = sorted({len(rendered.text), *fresh, *(end for span in (*controls, *learnt) for end in span)})
    pieces, position = [], 0
    for start, end in pairwise(cuts):
        while position < len(learnt) and learnt[position][1] <= start:
            position += 1
        with_loss = position < len(learnt) and learnt[position][0] <= start
        continues = None if (start, end) in controls else start not in fresh
        text = rendered.text[start:end]
        if pieces and pieces[-1].continues is None and pieces[-1].text in greedy and not with_loss:
            text = text.lstrip()
        if text:
            pieces.append(_Piece(text, continues, with_loss))
        else:
            fresh.add(end)
    return pieces


def _check_known(cut: list[list[_Piece]], control_ids: Mapping[str, int], template: Template) -> None:
    written = {piece.text for pieces in cut for piece in pieces if piece.continues is None}
    missing = sorted(written - set(control_ids))
    if missing:
        raise UsageError(
            f"The tokenizer has no token {', '.join(missing)}, which the chat template {template.name} writes.",
            where="model.template",
            fix="Use the template this model was trained with.",
        )


_VOCABULARY: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Tokens to ids, made once for each tokenizer: large ones take a tenth of a second."""
    if tokenizer not in _VOCABULARY:
        _VOCABULARY[tokenizer] = tokenizer.get_vocab()
    return _VOCABULARY[tokenizer]
