"""Cuts a rendered conversation into the pieces that are encoded each by itself.

    <|im_start|> user\\nHi <|im_end|> \\n <|im_start|> assistant\\n Hello! <|im_end|> \\n

The cuts are at the template's own control tokens, where loss begins or ends, and where the publisher's code starts to
encode afresh. The cut before the answer is where generation starts at inference, so the model learns from exactly
the ids it will be given.
"""

from __future__ import annotations

from collections.abc import Set
from itertools import pairwise
from typing import NamedTuple

from xtune.templates.render import Rendered


class Piece(NamedTuple):
    """What is encoded at once. `continues`: None for a control token; True where text goes on from the piece
    before, so that no space is put in front; False where the publisher's code starts to encode."""

    text: str
    continues: bool | None
    learnt: bool


class Fixed(NamedTuple):
    """Pieces that are the same in many texts, encoded: int32 as bytes, both of the same length."""

    ids: bytes
    labels: bytes


def cut_pieces(rendered: Rendered, as_text: Set[str], greedy: Set[str]) -> list[Piece]:
    """The conversation in pieces, in order; nothing empty.

    as_text   control tokens that the tokenizer does not have, which are written as text
    greedy    tokens that take white space behind them with them, as Phi-3's do; but not an answer's own, which is
              learnt as it will be written
    """
    controls = {span for span in rendered.control_spans if rendered.text[slice(*span)] not in as_text}
    learnt, fresh = rendered.loss_spans, {0, *rendered.cuts, *(end for _, end in controls)}
    cuts = sorted({len(rendered.text), *fresh, *(end for span in (*controls, *learnt) for end in span)})
    pieces: list[Piece] = []
    position = 0
    for start, end in pairwise(cuts):
        while position < len(learnt) and learnt[position][1] <= start:
            position += 1
        with_loss = position < len(learnt) and learnt[position][0] <= start
        continues = None if (start, end) in controls else start not in fresh
        text = rendered.text[start:end]
        if pieces and pieces[-1].continues is None and pieces[-1].text in greedy and not with_loss:
            text = text.lstrip()
        if text:
            pieces.append(Piece(text, continues, with_loss))
        else:
            fresh.add(end)
    return pieces
