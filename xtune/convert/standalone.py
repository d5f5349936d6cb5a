"""The files beside the weights, so that a directory loads elsewhere: tokenizer, template, stop ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.generate import stop_ids
from xtune.families import find_family, read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.tokenizer import load_tokenizer
from xtune.json_file import read_json, read_json_if_there, write_json
from xtune.run.target import Target, write_note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TOKENIZER_FILES = (
    "tokenizer*",  # .json, .model, _config.json, and the publisher's code
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "spiece.model",
    "ice_text.model",
    "*.tiktoken",
    "tokenization_*.py",
)


def write_companions(
    target: Target, tokenizer: PreTrainedTokenizerFast, directory: Path, *, native: bool = False
) -> None:
    """Write tokenizer, chat template, generation_config.json and xtune.json of a model of its own.

    native   for transformers, which does not read publishers' own tokenizer files
    """
    source = _tokenizer_source(target, tokenizer)
    if native and find_family(source, target.options.family).load_tokenizer:
        _save_for_transformers(tokenizer, directory)
    else:
        copy_tokenizer(source, directory)
        if native or read_layout(model_directory(target.base), target.options) is None:
            # Some programs prefer the template in here to chat_template.jinja: there must be only one.
            _change_settings(directory, chat_template=None)
    (directory / "chat_template.jinja").write_text(target.template.standalone, encoding="utf-8")
    generation = read_json_if_there(model_directory(target.base) / "generation_config.json")
    generation["eos_token_id"] = stop_ids(tokenizer, target.template)
    generation.setdefault("pad_token_id", tokenizer.pad_token_id)
    write_json(directory / "generation_config.json", generation)
    options = Options() if native else target.options
    write_note(directory, base=None, template=target.template, options=options)


def _tokenizer_source(target: Target, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Where to copy the tokenizer from: the base, as its publisher wrote it, unless training added tokens."""
    if target.tokenizer_path == target.base:
        return model_directory(target.base)
    same = load_tokenizer(target.base, family=target.options.family).get_vocab() == tokenizer.get_vocab()
    return model_directory(target.base if same else target.tokenizer_path)


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the tokenizer files that lie in `source`, publisher's own and transformers'."""
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)


def _save_for_transformers(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    tokenizer.save_pretrained(directory)
    # the name of the class that all versions know
    _change_settings(directory, chat_template=None, tokenizer_class="PreTrainedTokenizerFast")


def _change_settings(directory: Path, **changes: str | None) -> None:
    file = directory / "tokenizer_config.json"
    if not file.is_file():
        return
    settings = read_json(file)
    changed = {
        key: value
        for key, value in {**settings, **changes}.items()
        if value is not None or key not in changes
    }
    if changed != settings:
        write_json(file, changed)
