"""Loading a tokenizer: the publisher's own files, or transformers'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import RecipeError, UsageError
from xtune.families import find_family, read_config
from xtune.families.embedded import model_directory
from xtune.json_file import read_json_if_there

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# Publishers' own files, which come before what others made of them.
_ORIGINAL = ("tokenizer.model", "qwen.tiktoken", "ice_text.model")
# Classes that take all from tokenizer.json.
_PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")

_COPY = "Copy the model's tokenizer files into the directory."

ADDED = "xtune_added_tokens"
"""In tokenizer_config.json: the tokens that recipes declared, which are single tokens in plain text too."""


def load_tokenizer(
    path: str | Path, *, family: str = "auto", added_tokens: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """The tokenizer of a model or adapter directory, or an embedded model.

    added_tokens    a recipe's `model.added_tokens`; new ones are numbered after the others

    Raises UsageError where there is none, RecipeError for a token that it would write back as other text, or that is
    an ordinary piece of the vocabulary.
    """
    directory = model_directory(str(path))
    tokenizer = None
    if (directory / "config.json").is_file() or not (directory / "tokenizer_config.json").is_file():
        read_config(directory)  # says what is missing
        reader = find_family(directory, family).load_tokenizer
        saved = (
            directory / "tokenizer.json"
        ).is_file()  # perhaps by transformers, perhaps beside the original
        if reader and not (saved and not any((directory / name).is_file() for name in _ORIGINAL)):
            tokenizer = reader(directory)
    tokenizer = tokenizer or _native_tokenizer(directory)  # also of an adapter, where no config.json is
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes of no files at all
        raise UsageError("The tokenizer is missing.", where=str(directory), fix=_COPY)
    if tokenizer.pad_token_id is None:  # padding is masked everywhere: any token does
        tokenizer.pad_token = tokenizer.eos_token
    before = read_json_if_there(directory / "tokenizer_config.json").get(ADDED, [])
    if declared := list(dict.fromkeys([*before, *added_tokens])):
        _declare(tokenizer, declared)
    return tokenizer


def declared_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """The tokens that recipes declared, with their ids."""
    tokens = tokenizer.init_kwargs.get(ADDED, [])
    return dict(zip(tokens, tokenizer.convert_tokens_to_ids(tokens), strict=True))


def _declare(tokenizer: PreTrainedTokenizerFast, tokens: list[str]) -> None:
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    single = {token.content for token in tokenizer.added_tokens_decoder.values()}
    for token in tokens:
        if token in known and token not in single:
            raise RecipeError(
                f"{token!r} cannot be added: it is an ordinary piece of the vocabulary, which the tokenizer joins with "
                "its neighbours, elsewhere too.",
                where="model.added_tokens",
                fix="Leave it out: the model has it. Or choose a name that the vocabulary has not, such as <tool>.",
            )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens if token not in known])
    tokenizer.init_kwargs[ADDED] = tokens  # saved with it
    for token, index in declared_tokens(tokenizer).items():
        # Vocabularies have their own spelling of text: "\u0120the" is " the", "<0x0A>" a line break.
        if (written := tokenizer.decode([index])).strip() != token.strip():
            raise RecipeError(
                f"{token!r} cannot be added: this tokenizer writes it as {written!r}.",
                where="model.added_tokens",
                fix="Choose another name, of ASCII characters such as <tool>.",
            )


def _native_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    if _is_plain(directory):
        from transformers import PreTrainedTokenizerFast as Reader
    else:  # which takes seconds more, since it imports torch
        from transformers import AutoTokenizer as Reader
    try:
        return Reader.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The tokenizer cannot be loaded: {str(error).splitlines()[0]}",
            where=str(directory),
            fix="Its publisher's code is never run: take a copy with a tokenizer.json."
            if "trust_remote_code" in str(error)
            else _COPY,
        ) from None


def _is_plain(directory: Path) -> bool:
    """Whether all of a tokenizer is in tokenizer.json."""
    try:
        saved = read_json_if_there(directory / "tokenizer_config.json")
    except UsageError:  # which is told when it is read in earnest
        return False
    named = saved.get("tokenizer_class") in _PLAIN and "auto_map" not in saved
    return named and (directory / "tokenizer.json").is_file()
