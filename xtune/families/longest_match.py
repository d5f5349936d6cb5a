"""InternLM3's kind of SentencePiece model: every piece is user-defined, so nothing is ever merged, and at each
place the longest piece that fits is taken.

The tokenizers library has no such model. A regular expression in the shape of a tree finds the pieces instead;
listed one after the other, 128,000 alternatives would be some hundred times slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from xtune.families.sentencepiece import USER_DEFINED, Model, decoding_steps, normalizing_steps

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_END = ""  # the key that says a piece ends at this node
_FAN = 8  # alternatives that are tried one by one


def longest_match_backend(model: Model, names: Mapping[int, str]) -> Tokenizer:
    """Such a model's backend: ids are the pieces' positions. Pieces renamed by `names` are not found in text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pieces = enumerate(model.pieces)
    pattern = _alternatives(
        _tree(piece.text for i, piece in pieces if piece.kind == USER_DEFINED and i not in names)
    )
    backend = Tokenizer(
        models.BPE(
            vocab={names.get(i, piece.text): i for i, piece in enumerate(model.pieces)},
            merges=[],
            unk_token=names.get(model.unk_id, model.pieces[model.unk_id].text),
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
            ignore_merges=True,  # what the pattern cuts out is a piece or else unknown, never a control token
        )
    )
    backend.normalizer = normalizers.Sequence(normalizing_steps(model))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    backend.decoder = decoders.Sequence(decoding_steps(model))
    return backend


def _tree(pieces: Iterable[str]) -> dict:
    root: dict = {}
    for piece in pieces:
        node = root
        for character in piece:
            node = node.setdefault(character, {})
        node[_END] = {}
    return root


def _alternatives(node: dict) -> str:
    """The pattern for what may follow at a node; the longest piece wins, for `?` is greedy."""
    return _choice(sorted((character, child) for character, child in node.items() if character != _END))


def _choice(children: list[tuple[str, dict]]) -> str:
    if len(children) <= _FAN:
        return "|".join(_character(character) + _rest(child) for character, child in children)
    step = -(-len(children) // _FAN)
    groups = [children[start : start + step] for start in range(0, len(children), step)]
    return "|".join(
        f"(?=[{_character(group[0][0])}-{_character(group[-1][0])}])(?:{_choice(group)})" for group in groups
    )


def _rest(node: dict) -> str:
    follows = _alternatives(node)
    return follows and (f"(?:{follows})?" if _END in node else f"(?:{follows})")


def _character(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"
