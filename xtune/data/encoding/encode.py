"""Samples to token ids and the mask of what is learnt.

The text is cut at the template's own control tokens and where loss begins or ends:

    <|im_start|> user\\nHi <|im_end|> \\n <|im_start|> assistant\\n Hello! <|im_end|> \\n
         0           0         0      0       0            0         1         1      0

Control tokens are looked up; what lies between is encoded by the tokenizer's model without any added
tokens, so nothing that a person types can become one. Tokens that a recipe adds, and the template does not
write, are no control tokens: they are found in any text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from xtune.data.encoding.pieces import Fixed, Piece, cut_pieces
from xtune.data.encoding.plain_tokenizer import plain_tokenizer
from xtune.data.encoding.render_samples import document_ends, renderings
from xtune.data.encoding.shapes import Shapes
from xtune.data.encoding.turns import split_turns
from xtune.data.encoding.words import Words
from xtune.errors import UsageError
from xtune.families.tokenizer import declared_tokens
from xtune.messages import AnySample, Message, Sample
from xtune.templates.render import Rendered, render
from xtune.templates.template import Template, find_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NO_LABEL = -100
"""The label where there is no loss, as PyTorch's cross entropy has it."""
NO_LABEL_BYTES = np.int32(NO_LABEL).tobytes()


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
    """Many conversations at once. Raises UsageError as `encode` does."""
    encoder = Encoder.of(tokenizer, template)
    return encoder.encode_pieces([encoder.cut(one) for one in rendered])


class Encoder:
    """Turns samples into ids with one tokenizer and one template. It can be sent to another process.

    control_ids   control token to id
    labels        id of a control token to what is learnt in its place
    as_text       control tokens of the template that the tokenizer does not have, which are text to it
    greedy        tokens that take white space behind them with them
    ends          tokens around a document
    """

    def __init__(self, template, words, control_ids, labels, as_text, greedy, ends):
        self.template: Template = template
        self.words: Words = words
        self.control_ids: dict[str, int] = control_ids
        self.labels: dict[int, int] = labels
        self.as_text: frozenset[str] = as_text
        self.greedy: frozenset[str] = greedy
        self.ends: tuple[str, str] = ends
        self._shapes = Shapes(self._cut_sample, self._fix)

    def __reduce__(self):
        values = self.words, self.control_ids, self.labels, self.as_text, self.greedy, self.ends
        return Encoder, (self.template, *values)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, template: Template) -> Encoder:
        """The encoder of a tokenizer and a template, made once for each two."""
        made = _ENCODERS.setdefault(tokenizer, [])
        for known, encoder in made:
            if known == template:
                return encoder
        vocabulary, ends = vocabulary_of(tokenizer), document_ends(tokenizer)
        tokens = (*template.guarded_tokens, *filter(None, ends))
        control_ids = {token: vocabulary[token] for token in tokens if token in vocabulary}
        labels = {control_ids.get(token): vocabulary.get(label) for token, label in template.labels.items()}
        as_text = frozenset(template.optional_tokens) - set(control_ids)
        greedy = frozenset(token.content for token in tokenizer.added_tokens_decoder.values() if token.rstrip)
        plain = {token: index for token, index in declared_tokens(tokenizer).items() if token not in tokens}
        words = Words(plain_tokenizer(tokenizer), plain_tokenizer(tokenizer, continues=True), plain)
        encoder = cls(template, words, control_ids, labels, as_text, greedy, ends)
        made.append((template, encoder))
        return encoder

    def pieces(self, sample: AnySample) -> list[list[Piece | Fixed]]:
        """Each text of a sample (`renderings`) in pieces. Raises DataError where the template cannot express it."""
        if isinstance(sample, Sample):
            return [self._shapes.pieces(part) for part in split_turns(sample, self.template)]
        return [self.cut(rendered) for rendered in renderings(sample, self.template, self.ends)]

    def cut(self, rendered: Rendered) -> list[Piece]:
        """A rendered text in pieces."""
        return cut_pieces(rendered, self.as_text, self.greedy)

    def _cut_sample(self, sample: Sample) -> list[Piece]:
        return self.cut(render(sample.messages, template=self.template, tools=sample.tools))

    def encode_pieces(self, texts: Sequence[list[Piece | Fixed]]) -> list[Encoded]:
        """The ids of each text. Raises UsageError where the tokenizer lacks a control token."""
        return [
            Encoded(np.frombuffer(ids, np.int32), np.frombuffer(labels, np.int32))
            for ids, labels in self.encode_bytes(texts)
        ]

    def encode_bytes(self, texts: Sequence[list[Piece | Fixed]]) -> list[Fixed]:
        """encode_pieces as bytes, which are joined faster than arrays."""
        plain = iter(
            self.words.encode(
                [
                    (piece.text, piece.continues)
                    for pieces in texts
                    for piece in pieces
                    if type(piece) is Piece and piece.continues is not None
                ]
            )
        )
        results = []
        for pieces in texts:
            all_ids, all_labels = [], []
            for piece in pieces:
                if type(piece) is Fixed:
                    ids, labels = piece
                elif piece.continues is None:
                    ids, labels = self._control(piece)
                else:
                    ids = next(plain)
                    labels = ids if piece.learnt else NO_LABEL_BYTES * (len(ids) // 4)
                all_ids.append(ids)
                all_labels.append(labels)
            results.append(Fixed(b"".join(all_ids), b"".join(all_labels)))
        return results

    def _fix(self, pieces: list[Piece]) -> Fixed:
        (fixed,) = self.encode_bytes([pieces])
        return fixed

    def _control(self, piece: Piece) -> Fixed:
        if piece.text not in self.control_ids:
            raise UsageError(
                f"The tokenizer has no token {piece.text}, which the chat template {self.template.name} writes.",
                where="model.template",
                fix="Use the template this model was trained with.",
            )
        index = self.control_ids[piece.text]
        label = self.labels.get(index, index) if piece.learnt else NO_LABEL
        return Fixed(np.int32(index).tobytes(), np.int32(label).tobytes())


_ENCODERS: WeakKeyDictionary[Any, list[tuple[Template, Encoder]]] = WeakKeyDictionary()
_VOCABULARY: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Tokens to ids, made once for each tokenizer: large ones take a tenth of a second."""
    if tokenizer not in _VOCABULARY:
        _VOCABULARY[tokenizer] = tokenizer.get_vocab()
    return _VOCABULARY[tokenizer]
