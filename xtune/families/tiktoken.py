"""tiktoken's rank files (`qwen.tiktoken`, GLM-4's `tokenizer.model`) as backends of the tokenizers library.

A file has a line for each token: its bytes in base64, and its rank, which is its id.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.families.sentencepiece import damaged, ranked_merges, read_tokenizer_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# How text is cut into words before merging. The two differ in digits: GLM-4 takes up to three, Qwen one.
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GLM4_PATTERN = _PATTERN.replace("DIGITS", "{1,3}")
QWEN_PATTERN = _PATTERN.replace("DIGITS", "")


def read_ranks(file: Path) -> dict[bytes, int]:
    """Token bytes to ranks 0, 1, 2 … Raises UsageError where the file is missing or damaged."""
    try:
        lines = [line.split() for line in read_tokenizer_file(file).splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error):
        raise damaged(file, "a list of base64 tokens and ranks") from None
    whole = sorted(ranks.values()) == list(range(len(lines)))
    if not whole or not all(bytes([byte]) in ranks for byte in range(256)):
        raise damaged(file, "a complete list of ranks")
    return ranks


def tiktoken_backend(ranks: dict[bytes, int], pattern: str, *, nfc: bool) -> Tokenizer:
    """A rank file's backend: ids are the ranks, no added tokens yet; `nfc` composes characters first."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    character = _byte_characters()
    vocab = {"".join(character[byte] for byte in token): rank for token, rank in ranks.items()}
    # tiktoken looks a whole word up before it merges anything, which is what ignore_merges means
    backend = Tokenizer(models.BPE(vocab=vocab, merges=ranked_merges(vocab), ignore_merges=True))
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_characters() -> dict[int, str]:
    """The character that byte-level BPE writes for each byte: itself where it can be seen, else from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = (byte for byte in range(256) if byte not in seen)
    return {byte: chr(byte) for byte in seen} | {byte: chr(0x100 + i) for i, byte in enumerate(unseen)}
