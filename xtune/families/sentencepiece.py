"""SentencePiece models (`tokenizer.model`, `ice_text.model`) as backends of the tokenizers library.

The file is a protocol buffer of which a dozen fields matter, so it is read here: neither sentencepiece nor
protobuf is needed. Transformers' own conversion is not used because, for models with user-defined pieces,
it sets `ignore_merges` (5.24): a person who types just `</s>` then gets the control token.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import UsageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
# Characters that stand for something else inside a backend; the last plane is private and in nobody's text.
_PRIVATE = 0x10F000


@dataclass(frozen=True)
class Piece:
    """One piece: `kind` is NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE; a higher score merges first."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What a SentencePiece file says. A piece's id is its position; -1 as an id means there is none."""

    pieces: list[Piece] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    unk_id: int = 0
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


def read_model(file: Path) -> Model:
    """A SentencePiece file. Raises UsageError where it is missing, a Git LFS pointer, or damaged."""
    content = read_tokenizer_file(file)
    try:
        parts = list(_fields(content))
        trainer = dict(_fields(next(value for number, value in parts if number == 2)))
        normalizer = dict(_fields(next(value for number, value in parts if number == 3)))
        pieces = [_piece(value) for number, value in parts if number == 1]
        model = Model(
            pieces=pieces,
            model_type=trainer.get(3, UNIGRAM),
            byte_fallback=bool(trainer.get(35, 0)),
            unk_id=trainer.get(40, 0),
            charsmap=normalizer.get(2, b""),
            add_dummy_prefix=bool(normalizer.get(3, 1)),
            remove_extra_whitespaces=bool(normalizer.get(4, 1)),
            escape_whitespaces=bool(normalizer.get(5, 1)),
        )
        if model.model_type not in (UNIGRAM, BPE) or not 0 <= model.unk_id < len(pieces):
            raise ValueError
    except (ValueError, StopIteration, IndexError, struct.error, TypeError, AttributeError):
        raise damaged(file, "a SentencePiece model") from None
    return model


def read_tokenizer_file(file: Path) -> bytes:
    """The bytes of a tokenizer file. Raises UsageError where there is none or only a Git LFS pointer."""
    try:
        content = file.read_bytes()
    except OSError:
        raise UsageError(
            f"The tokenizer file {file.name} is missing.",
            where=str(file.parent),
            fix=f"Copy {file.name} from the published checkpoint into this directory.",
        ) from None
    if content.startswith(b"version https://git-lfs"):
        raise UsageError(
            f"{file.name} is a Git LFS pointer, not the file itself.",
            where=str(file),
            fix="Run `git lfs pull` in the directory it was cloned to, or download the file.",
        )
    return content


def damaged(file: Path, what: str) -> UsageError:
    """The error for a tokenizer file that cannot be read as what it should be."""
    return UsageError(
        f"The tokenizer file {file.name} is damaged: it is not {what}.",
        where=str(file),
        fix="Copy the file again from the published checkpoint and compare its size.",
    )


def bpe_backend(model: Model, names: Mapping[int, str] | None = None) -> Tokenizer:
    """A BPE model's backend: ids are the pieces' positions, no added tokens yet, no pre- or suffix.

    `names` renames pieces. A user-defined piece gets its id only once it is an added token: without, the
    same text is encoded like any other, which is what keeps typed control tokens harmless.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = {(names or {}).get(i, piece.text): i for i, piece in enumerate(model.pieces)}
    scores = {piece.text: (-piece.score, i) for i, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    backend = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=ranked_merges(scores),
            unk_token=(names or {}).get(model.unk_id, model.pieces[model.unk_id].text),
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    backend.normalizer = normalizers.Sequence(normalizing_steps(model))
    backend.decoder = decoders.Sequence(decoding_steps(model))
    return backend


def unigram_backend(model: Model, written: Mapping[str, str], offset: int = 0) -> Tokenizer:
    """A Unigram model's backend; a piece's id is its position plus `offset`.

    `written` maps text to the user-defined piece it is encoded as, in the order of replacing: {"\\n": "<n>"}.
    The tokenizers library matches every piece of a Unigram vocabulary in the text, `</s>` too. So ordinary
    pieces are stored with the first characters of all others ("<", "[") disguised, and the text is
    disguised alike: what is typed can then match ordinary pieces only.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    others = [piece.text for piece in model.pieces if piece.kind not in (NORMAL, USER_DEFINED)]
    private = {name: chr(_PRIVATE + i) for i, name in enumerate(sorted({text[0] for text in others}))}
    user_defined = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    atoms = {text: chr(_PRIVATE + len(private) + i) for i, text in enumerate(user_defined)}
    ordinary = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    normal = [piece.score for piece in model.pieces if piece.kind == NORMAL]
    disguise = str.maketrans(private)
    # A first character that is no ordinary piece is still encoded as its own byte, not as its disguise's.
    atoms |= {f"<0x{ord(name):02X}>": code for name, code in private.items() if name not in ordinary}
    vocab = [(f"<image_{i}>", min(normal)) for i in range(offset)]
    for piece in model.pieces:
        if piece.kind == NORMAL:
            vocab.append((piece.text.translate(disguise), piece.score))
        else:  # any score will do, if it leaves the lowest one, on which unknown characters' depends, as it is
            vocab.append((atoms.get(piece.text, piece.text), min(normal)))
    backend = Tokenizer(models.Unigram(vocab, offset + model.unk_id, byte_fallback=model.byte_fallback))
    # Longest first: a piece typed out is the piece too, as SentencePiece has it.
    typed = sorted(user_defined, key=len, reverse=True)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace(text, atoms[piece]) for text, piece in written.items()]
        + [normalizers.Replace(piece, atoms[piece]) for piece in typed]
        + [normalizers.Replace(name, code) for name, code in private.items()]
        + normalizing_steps(model)
    )
    text_of = {piece: text for text, piece in written.items()}
    backend.decoder = decoders.Sequence(
        [decoders.Replace(code, name) for name, code in private.items()]
        + decoding_steps(model)
        + [decoders.Replace(atoms[piece], text_of.get(piece, piece)) for piece in user_defined]
    )
    return backend


def ranked_merges(ranks: Mapping[str, object]) -> list[tuple[str, str]]:
    """Every way to make a piece from two others, best first; `ranks` orders the pieces, lowest first.

    Where one piece can be made twice around a shared middle (a|ba and ab|a in "ab a ba"), the publishers'
    tokenizers take the leftmost; the tokenizers library takes the first in this list. Both agree when the
    split whose right half also begins the piece comes first.
    """
    ranked = []
    for text, rank in ranks.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ranks and right in ranks:
                ranked.append((rank, not text.startswith(right), left, right))
    return [(left, right) for _, _, left, right in sorted(ranked)]


def normalizing_steps(model: Model) -> list:
    """What SentencePiece does to text first, in its order."""
    from tokenizers import Regex, normalizers

    steps: list = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:  # of all whitespace, only blanks
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    blank = " "
    if model.escape_whitespaces:
        blank = "▁"
        steps.append(normalizers.Replace(" ", blank))
    if model.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(re.escape(blank) + r"+\z"), ""))
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(blank))
    return steps


def decoding_steps(model: Model) -> list:
    """How pieces become text again: decoders, in order."""
    from tokenizers import decoders

    steps: list = [decoders.Replace("▁", " ")] if model.escape_whitespaces else []
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    return steps


def _piece(message: bytes) -> Piece:
    values = dict(_fields(message))
    score = struct.unpack("<f", values[2])[0] if 2 in values else 0.0
    return Piece(values[1].decode("utf-8"), score, values.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer message: integers decoded, all else as bytes."""
    position, end = 0, len(message)

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value - (1 << 64) if value >> 63 else value
            shift += 7

    while position < end:
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 2: None, 5: 4}[wire] if wire in (1, 2, 5) else -1
        size = varint() if size is None else size
        if size < 0 or position + size > end:
            raise ValueError("truncated")
        yield number, message[position : position + size]
        position += size
