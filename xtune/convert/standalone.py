"""The files beside the weights, so that a directory loads in stock Transformers: tokenizer, template, stop ids."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.generate import stop_ids
from xtune.families.embedded import model_directory
from xtune.families.tokenizer import load_tokenizer
from xtune.run.target import Target, write_note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TOKENIZER_FILES = (
    "tokenizer*",  # .json, .model, _config.json
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "spiece.model",
    "*.tiktoken",
)


def write_companions(target: Target, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write tokenizer, chat template, generation_config.json and xtune.json of a model of its own."""
    _write_tokenizer(_tokenizer_source(target, tokenizer), tokenizer, directory)
    (directory / "chat_template.jinja").write_text(target.template.source, encoding="utf-8")
    file = model_directory(target.base) / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    generation["eos_token_id"] = stop_ids(tokenizer, target.template)
    generation.setdefault("pad_token_id", tokenizer.pad_token_id)
    _write_json(directory / "generation_config.json", generation)
    write_note(directory, base=None, template=target.template)


def _tokenizer_source(target: Target, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Where to copy the tokenizer from: the base, as its publisher wrote it, unless training added tokens."""
    if target.tokenizer_path == target.base:
        return model_directory(target.base)
    same = load_tokenizer(target.base).get_vocab() == tokenizer.get_vocab()
    return model_directory(target.base if same else target.tokenizer_path)


def _write_tokenizer(source: Path, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    settings_file = source / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8")) if settings_file.is_file() else {}
    if not settings or "auto_map" in settings:  # nothing that stock Transformers could load as it is
        tokenizer.save_pretrained(directory)
        return
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
    # Some programs prefer the template in here to chat_template.jinja: there must be only one.
    if settings.pop("chat_template", None) is not None:
        _write_json(directory / "tokenizer_config.json", settings)


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
