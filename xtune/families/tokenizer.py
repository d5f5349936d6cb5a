"""Loading a tokenizer: the publisher's own files, or transformers'."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xtune.errors import UsageError
from xtune.families import find_family, read_config
from xtune.families.embedded import model_directory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# Publishers' own files, which come before what others made of them.
_ORIGINAL = ("tokenizer.model", "qwen.tiktoken", "ice_text.model")


_COPY = "Copy the model's tokenizer files into the directory."


def load_tokenizer(path: str | Path, *, family: str = "auto") -> PreTrainedTokenizerFast:
    """The tokenizer of a model or adapter directory, or an embedded model. Raises UsageError where there is none."""
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
    return tokenizer


def _native_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The tokenizer cannot be loaded: {str(error).splitlines()[0]}",
            where=str(directory),
            fix=_COPY,
        ) from None
