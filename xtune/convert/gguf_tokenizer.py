"""A tokenizer as llama.cpp has it: byte-level BPE ("gpt2" there) or SentencePiece's BPE ("llama").

All is read from the tokenizers backend that training used. llama.cpp knows ways to cut text into words by name only,
so the name is found by what the backend does with a probe.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from xtune.chat.generate import stop_ids
from xtune.errors import UsageError
from xtune.templates.template import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Token types of llama.cpp.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# How llama.cpp cuts text before it merges, by the name it goes by; each pattern cuts what the one before left.
_PRE_TOKENIZERS = {
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "qwen2": (_WORDS % "",),
    "llama-bpe": (_WORDS % "{1,3}",),  # looks whole words up first (ignore_merges)
    "smaug-bpe": (_WORDS % "{1,3}",),  # the same without
}
_PROBE = (
    "Hello  World's 12345 ½ x2y, it'LL cost $3.50!!\n\n\n  a\tb \r\n你好，世界１２３。こんにちは 안녕하세요 Привет "
    "मानक हिन्दी ไทย العربية ٣٤٥ naïve café 🙂🙂👍🏽 _a_b (c) [d]\n \n e=mc²  …—“q”   "
)


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer; lists have an entry for each row of the embedding.

    model             "gpt2" or "llama"
    pre               llama.cpp's name for the way text is cut into words
    special           bos, eos, eot, eom, unk, pad to ids; the three that end an answer are all of the template's
    chat_template     Jinja
    notes             what llama.cpp does otherwise
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    add_bos: bool
    add_eos: bool
    chat_template: str
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    add_space_prefix: bool = False
    notes: tuple[str, ...] = ()


def read_vocabulary(
    tokenizer: PreTrainedTokenizerFast, rows: int, template: Template, *, where: str
) -> Vocabulary:
    """The vocabulary of a model whose embedding has so many rows. Raises UsageError for a kind that llama.cpp has
    not."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_level = "ByteLevel" in json.dumps([backend["decoder"], backend["pre_tokenizer"]])[:100_000]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in backend["model"].get("merges") or ()
    ]
    if backend["model"]["type"] != "BPE" or not merges or len(tokenizer) > rows:
        raise UsageError(
            "llama.cpp has no tokenizer of this kind."
            if len(tokenizer) <= rows
            else f"The tokenizer has {len(tokenizer)} tokens, the model only {rows} rows for them.",
            where=where,
            fix="Use a program that loads Hugging Face tokenizers: xtune convert vllm or lmdeploy.",
        )
    tokens, types = _tokens(tokenizer, rows, template, byte_level)
    before, after = _around(tokenizer)
    shared = {
        "tokens": tokens,
        "types": types,
        "special": _special(tokenizer, template),
        "add_bos": before[:1] == [tokenizer.bos_token_id],
        "add_eos": after[-1:] == [tokenizer.eos_token_id],
        "chat_template": for_llama_cpp(template, tokenizer).source,
        "notes": _notes(tokenizer),
    }
    if byte_level:
        return Vocabulary(
            "gpt2",
            _pre_tokenizer(tokenizer, backend["model"].get("ignore_merges"), where),
            merges=merges,
            **shared,
        )
    return Vocabulary(
        "llama",
        "default",
        scores=_scores(tokens, types, backend["model"]["merges"]),
        add_space_prefix=_adds_space(tokenizer),
        **shared,
    )


def for_llama_cpp(template: Template, tokenizer: PreTrainedTokenizerFast) -> Template:
    """A chat format as plain Jinja, for programs that take a control token for one wherever it stands.

    Blocks that mark what is learnt are gone. Where the publisher's code encodes afresh, so that SentencePiece puts its
    first space there, a space is written. Control tokens that are words, as ChatGLM's `sop`, get a name no text has.
    """
    source = re.sub(r"{%(-?)\s*generation\s*(-?)%}", r"{%\1 if true \2%}", template.standalone)
    source = re.sub(r"{%(-?)\s*endgeneration\s*(-?)%}", r"{%\1 endif \2%}", source)
    names = _renamed(template, tokenizer)
    for name, new in names.items():
        source = re.sub(rf"\b{name}\b", new, source)
    if "{{ cut }}" in source:
        source = f"{{% set cut = {' ' if _adds_space(tokenizer) else ''!r} %}}\n{source}"
    control = tuple(names.get(token, token) for token in template.control_tokens)
    return replace(template, source=source, control_tokens=control, variables={})


def _renamed(template: Template, tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    known = tokenizer.get_vocab()
    return {token: f"<|{token}|>" for token in template.guarded_tokens if token.isalpha() and token in known}


def _adds_space(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether text gets SentencePiece's first space."""
    return tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False))[0].startswith("▁")


def _tokens(
    tokenizer: PreTrainedTokenizerFast, rows: int, template: Template, byte_level: bool
) -> tuple[list[str], list[int]]:
    known = tokenizer.get_vocab()
    names = {index: token for token, index in known.items()}
    added, renamed = tokenizer.added_tokens_decoder, _renamed(template, tokenizer)
    tokens, types = [], []
    for index in range(rows):
        token = names.get(index, f"[PAD{index}]")
        if index not in names:
            kind = UNUSED
        elif not byte_level and index == tokenizer.unk_token_id:
            kind = UNKNOWN
        elif token in template.guarded_tokens or (index in added and added[index].special):
            kind = CONTROL
        elif index in added:
            kind = USER_DEFINED
        elif not byte_level and re.fullmatch(r"<0x[0-9A-F]{2}>", token):
            kind = BYTE
        else:
            kind = NORMAL
        if kind == USER_DEFINED and not byte_level and (spaced := token.replace("▁", " ")) not in known:
            token = spaced  # llama.cpp looks for them in the text as it is
        tokens.append(renamed.get(token, token))
        types.append(kind)
    return tokens, types


def _scores(tokens: list[str], types: list[int], merges: list) -> list[float]:
    """SentencePiece merges what makes the piece with the highest score: minus the place of its first merge."""
    first: dict[str, int] = {}
    for place, merge in enumerate(merges):
        pair = merge.split(" ", 1) if isinstance(merge, str) else merge
        first.setdefault("".join(pair), place)
    least = -float(len(merges) + 1)
    return [
        0.0
        if kind in (CONTROL, UNKNOWN, BYTE, USER_DEFINED)
        else -float(first[token])
        if token in first
        else least
        for token, kind in zip(tokens, types, strict=True)
    ]


def _around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after any text."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a")
    start = next(i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    return full[:start], full[start + len(plain) :]


def _special(tokenizer: PreTrainedTokenizerFast, template: Template) -> dict[str, int]:
    ends = dict.fromkeys([*stop_ids(tokenizer, template), tokenizer.eos_token_id])
    found = dict(zip(("eos", "eot", "eom"), ends, strict=False))
    others = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "unk", "pad")}
    return {name: index for name, index in {**others, **found}.items() if index is not None}


def _pre_tokenizer(tokenizer: PreTrainedTokenizerFast, whole_words_first: bool | None, where: str) -> str:
    """The name of the way to cut text that gives the same words as the tokenizer's own on a probe."""
    from tokenizers import Regex, pre_tokenizers

    own = _words(tokenizer.backend_tokenizer.pre_tokenizer)
    for name, patterns in _PRE_TOKENIZERS.items():
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
        if _words(pre_tokenizers.Sequence(splits)) == own and (name != "llama-bpe" or whole_words_first):
            return name
    raise UsageError(
        "The tokenizer cuts text into words in a way for which xtune knows no name of llama.cpp's.",
        where=where,
        fix=f"Known are those of {', '.join(_PRE_TOKENIZERS)}; llama.cpp's convert_hf_to_gguf.py knows others.",
    )


def _words(pre_tokenizer) -> list[tuple[int, int]]:
    return [place for _, place in pre_tokenizer.pre_tokenize_str(_PROBE)]


def _notes(tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    normalizer = tokenizer.backend_tokenizer.normalizer
    written_apart = "e\N{COMBINING ACUTE ACCENT}"
    if normalizer and written_apart not in normalizer.normalize_str(written_apart):
        return (
            "llama.cpp does not compose characters (NFC), as the tokenizer does: text is mostly composed already",
        )
    return ()
