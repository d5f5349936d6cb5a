"""Tokenizers of checkpoints as their publishers shipped them, without the publishers' code.

Each `*_tokenizer(directory)` gives the ids that the publisher's own tokenizer gives, or raises UsageError
naming the file that is missing or damaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.errors import UsageError
from xtune.families.longest_match import longest_match_backend
from xtune.families.sentencepiece import (
    BPE,
    NORMAL,
    UNIGRAM,
    USER_DEFINED,
    Model,
    bpe_backend,
    damaged,
    read_model,
    unigram_backend,
)
from xtune.families.tiktoken import GLM4_PATTERN, QWEN_PATTERN, read_ranks, tiktoken_backend
from xtune.json_file import read_json_if_there

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


def internlm_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """InternLM 1: `<s>` before every text; `<eoh>` and `<eoa>` are user-defined pieces."""
    return _sentencepiece_bpe(directory, add_bos=True, pad="</s>")


def internlm2_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """InternLM2, 2.5 and 3: `<s>` before every text; the chat tokens are the last six pieces, renamed."""
    chat = (
        "<|plugin|>",
        "<|interpreter|>",
        "<|action_end|>",
        "<|action_start|>",
        "<|im_end|>",
        "<|im_start|>",
    )
    return _sentencepiece_bpe(directory, add_bos=True, pad="</s>", last=chat)


def baichuan_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Baichuan 1 and 2. The role tokens are the pieces that generation_config.json numbers: `<reserved_102>` and
    `<reserved_103>` in Baichuan 1, `<reserved_106>` and `<reserved_107>` in Baichuan 2.

    A vocabulary that has no such names there (one cut down for a test) gets Baichuan 1's.
    """
    model = _read_bpe(directory / "tokenizer.model")
    generation = read_json_if_there(directory / "generation_config.json")
    names = {}
    roles = {"user_token_id": (195, "<reserved_102>"), "assistant_token_id": (196, "<reserved_103>")}
    for key, (published, name) in roles.items():
        role = generation.get(key, published)
        if role in range(len(model.pieces)) and not model.pieces[role].text.startswith("<reserved_"):
            names[role] = name
    return _sentencepiece_bpe(directory, add_bos=True, pad=None, names=names)


def chatglm2_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """ChatGLM2 and ChatGLM3: `[gMASK] sop` before every text; nothing typed is ever a control token.

    ChatGLM2's model never saw the four role tokens, but has rows for them.
    """
    model = _read_bpe(directory / "tokenizer.model")
    backend = bpe_backend(model)
    specials = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *GLM_ROLES)
    settings = {"eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return _tokenizer(
        backend, directory, _specials(specials), settings, before=("[gMASK]", "sop"), typed=False, left=True
    )


def chatglm_6b_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """ChatGLM-6B: `[gMASK] <sop>` after every text; newlines, tabs and runs of blanks are pieces of their own."""
    file = directory / "ice_text.model"
    model = read_model(file)
    texts = {piece.text for piece in model.pieces}
    if model.model_type != UNIGRAM or not {"<n>", "[gMASK]", "<sop>", "<eop>", "<|blank_80|>"} <= texts:
        raise damaged(file, "ChatGLM-6B's SentencePiece model")
    written = {"\n": "<n>", "\t": "<|tab|>"} | {" " * i: f"<|blank_{i}|>" for i in range(80, 1, -1)}
    # Checkpoints of before May 2023 number text from 20,000 on, after image tokens; theirs is also the default.
    offset = int(read_json_if_there(directory / "tokenizer_config.json").get("num_image_tokens", 20000))
    settings = {"bos_token": "<sop>", "eos_token": "<eop>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return _tokenizer(
        unigram_backend(model, written, offset),
        directory,
        _specials(("[MASK]",)),
        settings,
        after=("[gMASK]", "<sop>"),
        left=True,
    )


def qwen_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Qwen 1: NFC, single digits, 208 special tokens after the ranks. It has no `<s>`."""
    ranks = _read_all_ranks(directory / "qwen.tiktoken")
    backend = tiktoken_backend(ranks, QWEN_PATTERN, nfc=True)
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    # The publisher composes before it looks for special tokens, hence normalized.
    return _tokenizer(backend, directory, _specials(specials, normalized=True), settings)


def glm4_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """GLM-4: `[gMASK]<sop>` before every text; its `tokenizer.model` is a tiktoken rank file."""
    backend = tiktoken_backend(_read_all_ranks(directory / "tokenizer.model"), GLM4_PATTERN, nfc=False)
    names = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *GLM_ROLES)
    media = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    # The tokenizer itself never parses typed control tokens; published settings that list them make it so.
    typed = bool(read_json_if_there(directory / "tokenizer_config.json").get("added_tokens_decoder"))
    return _tokenizer(
        backend,
        directory,
        _specials((*names, *media)),
        settings,
        before=("[gMASK]", "<sop>"),
        typed=typed,
        left=True,
    )


def _sentencepiece_bpe(
    directory: Path,
    *,
    add_bos: bool,
    pad: str | None,
    names: Mapping[int, str] | None = None,
    last: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A `tokenizer.model` with pieces renamed by `names`, else by the settings, else (the last ones) by `last`."""
    from tokenizers import AddedToken

    model = _read_bpe(directory / "tokenizer.model")
    size = len(model.pieces)
    settings = read_json_if_there(directory / "tokenizer_config.json")
    listed = {int(i): token for i, token in settings.get("added_tokens_decoder", {}).items()}
    renamed = dict(enumerate(last, start=size - len(last)))
    renamed |= {i: token["content"] for i, token in listed.items() if i < size}
    renamed |= {i: name for i, name in (names or {}).items() if i < size}
    id_of = {piece.text: i for i, piece in enumerate(model.pieces)}
    # Where a new name is another piece's, the two swap: a name is never lost and never ambiguous.
    for i, name in list(renamed.items()):
        renamed.setdefault(id_of.get(name, i), model.pieces[i].text)
    ordinary = NORMAL if any(piece.kind == NORMAL for piece in model.pieces) else USER_DEFINED
    build = bpe_backend if ordinary == NORMAL else longest_match_backend
    added = [
        AddedToken(renamed.get(i, piece.text), normalized=False, special=i in renamed)
        for i, piece in enumerate(model.pieces)
        if piece.kind == USER_DEFINED and i not in listed and (i in renamed or ordinary == NORMAL)
    ]
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": pad}
    before = ["bos_token"] if settings.get("add_bos_token", add_bos) else []
    after = ["eos_token"] if settings.get("add_eos_token", False) else []
    named = {key: _content(settings.get(key)) or value for key, value in defaults.items()}
    return _tokenizer(
        build(model, renamed),
        directory,
        added,
        defaults,
        before=[named[key] for key in before],
        after=[named[key] for key in after],
    )


def _tokenizer(
    backend: Tokenizer,
    directory: Path,
    added: Sequence[Any],
    defaults: Mapping[str, str | None],
    *,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    typed: bool = True,
    left: bool = False,
) -> PreTrainedTokenizerFast:
    """Dress a backend: its added tokens, then what tokenizer_config.json says.

    defaults       bos, eos, unk and pad token where tokenizer_config.json has none
    before, after  what is put around every text
    typed          whether control tokens are found in text
    left           padding goes to the left
    """
    from tokenizers import AddedToken, processors
    from transformers import PreTrainedTokenizerFast

    file = directory / "tokenizer_config.json"
    settings = read_json_if_there(file)
    roles = {key: settings.get(key) or default for key, default in defaults.items()}
    listed = {int(i): token for i, token in settings.get("added_tokens_decoder", {}).items()}
    backend.add_tokens(
        [
            *added,
            *(AddedToken(**_flags(token)) for _, token in sorted(listed.items())),
            *(AddedToken(**{**_flags(role), "special": True}) for role in roles.values() if role),
        ]
    )
    for i, token in listed.items():
        if backend.token_to_id(token["content"]) != i:
            raise UsageError(
                f"The tokenizer files disagree: {token['content']} should be token {i} but is "
                f"{backend.token_to_id(token['content'])}.",
                where=str(file),
                fix="Copy all tokenizer files again from one published checkpoint.",
            )
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(token, backend.token_to_id(token)) for token in {*before, *after}],
    )
    template = settings.get("chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{key: _content(role) for key, role in roles.items() if role},
        **({"chat_template": template} if isinstance(template, str) else {}),
        **({"model_max_length": settings["model_max_length"]} if "model_max_length" in settings else {}),
        padding_side="left" if left else "right",
        split_special_tokens=not typed,
        clean_up_tokenization_spaces=False,
    )


def _specials(names: Sequence[str], *, normalized: bool = False) -> list:
    from tokenizers import AddedToken

    return [AddedToken(name, normalized=normalized, special=True) for name in names]


def _content(token: str | Mapping[str, Any] | None) -> str | None:
    return token["content"] if isinstance(token, Mapping) else token


def _flags(token: str | Mapping[str, Any]) -> dict[str, Any]:
    """AddedToken's arguments from tokenizer_config.json's way to write a token."""
    known = ("content", "lstrip", "rstrip", "single_word", "special")
    given = (
        {"content": token} if isinstance(token, str) else {key: token[key] for key in known if key in token}
    )
    return {**given, "normalized": False}  # the publishers look for them in the text as it is


def _read_all_ranks(file: Path) -> dict[bytes, int]:
    """A rank file, refused if cut short: the special tokens are numbered after its last line."""
    ranks = read_ranks(file)
    rows = read_json_if_there(file.parent / "config.json").get("vocab_size", 0)
    if rows > len(ranks) + 1024:  # published models have some 300 rows for special tokens and padding
        raise damaged(file, f"the whole list of about {rows} tokens, but {len(ranks)}")
    return ranks


def _read_bpe(file: Path) -> Model:
    model = read_model(file)
    if model.model_type != BPE:
        raise damaged(file, "a SentencePiece model of the kind BPE")
    return model
