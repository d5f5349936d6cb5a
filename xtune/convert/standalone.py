"""The files beside the weights, so that a directory loads elsewhere: tokenizer, template, stop ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from xtune.chat.generate import stop_ids
from xtune.convert.card import CARD, write_card
from xtune.errors import UsageError
from xtune.families import find_family, read_layout
from xtune.families.embedded import model_directory
from xtune.families.family import Options
from xtune.families.tokenizer import ADDED, declared_tokens, load_tokenizer
from xtune.json_file import read_json, read_json_if_there, write_json
from xtune.run.target import Target, write_note

if TYPE_CHECKING:
    from tokenizers import AddedToken
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
    """Write tokenizer, chat template, generation_config.json, xtune.json and card of a model of its own.

    native   for transformers, which does not read publishers' own tokenizer files
    """
    base = model_directory(target.base)
    own_reader = find_family(base, target.options.family).load_tokenizer is not None
    to_native = native or read_layout(base, target.options) is None
    added = _added_tokens(target, tokenizer)
    if own_reader and (native or (to_native and added)):
        _save_for_transformers(tokenizer, directory)
    else:
        # As the publisher wrote it, unless it is another one.
        copy_tokenizer(model_directory(target.tokenizer_path) if added is None else base, directory)
        if added or declared_tokens(tokenizer):
            _add_tokens(added or {}, declared_tokens(tokenizer), directory)
        if to_native:
            # Some programs prefer the template in here to chat_template.jinja: there must be only one.
            change_settings(directory, chat_template=None)
    (directory / "chat_template.jinja").write_text(target.template.standalone, encoding="utf-8")
    generation = read_json_if_there(model_directory(target.base) / "generation_config.json")
    generation["eos_token_id"] = stop_ids(tokenizer, target.template)
    generation.setdefault("pad_token_id", tokenizer.pad_token_id)
    write_json(directory / "generation_config.json", generation)
    options = Options() if native else target.options
    write_note(directory, base=None, template=target.template, options=options, read_at=target.read_at)
    write_card(directory / CARD, target)


def check_added_tokens(target: Target, tokenizer: PreTrainedTokenizerFast, *, native: bool = False) -> None:
    """Refuse new tokens where the layout that is to be written has no place for them."""
    base = model_directory(target.base)
    spare = find_family(base, target.options.family).spare_tokens
    if spare and not native and (added := _added_tokens(target, tokenizer)):
        raise UsageError(
            f"The publisher's tokenizer takes no new tokens, such as {next(iter(added.values())).content}.",
            where=target.base,
            fix=f"Name its spare ones in model.added_tokens, {spare}; or train an adapter, and write "
            "transformers' layout: xtune convert export RUN OUT --layout native.",
        )


def _added_tokens(target: Target, tokenizer: PreTrainedTokenizerFast) -> dict[int, AddedToken] | None:
    """The tokens that a tokenizer has besides the base's, by id; None where it is another one."""
    known = load_tokenizer(target.base, family=target.options.family).get_vocab()
    if not known.items() <= tokenizer.get_vocab().items():
        return None
    return {
        index: token
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if token.content not in known
    }


def _add_tokens(added: dict[int, AddedToken], declared: dict[str, int], directory: Path) -> None:
    """Write new tokens into all forms of a tokenizer that are there, each as its readers look for them."""
    from tokenizers import Tokenizer

    file = directory / "tokenizer_config.json"
    settings = {**read_json_if_there(file), ADDED: list(declared)}
    if added:
        if (backend_file := directory / "tokenizer.json").is_file():
            backend = Tokenizer.from_file(str(backend_file))
            backend.add_tokens(list(added.values()))
            backend.save(str(backend_file))
        older = directory / "added_tokens.json"  # for transformers before 4.34
        ids = {token.content: index for index, token in added.items()}
        write_json(older, {**read_json_if_there(older), **ids})
        if "added_tokens_decoder" not in settings:
            # Where that is, transformers no longer looks into special_tokens_map.json.
            settings = {**read_json_if_there(directory / "special_tokens_map.json"), **settings}
        listed = {str(index): _as_json(token) for index, token in added.items()}
        settings["added_tokens_decoder"] = {**settings.get("added_tokens_decoder", {}), **listed}
    write_json(file, settings)


def _as_json(token: AddedToken) -> dict[str, str | bool]:
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in flags}


def copy_tokenizer(source: Path, directory: Path) -> None:
    """Copy the tokenizer files that lie in `source`, publisher's own and transformers'."""
    for pattern in _TOKENIZER_FILES:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)


def _save_for_transformers(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    tokenizer.save_pretrained(directory)
    # the name of the class that all versions know
    change_settings(directory, chat_template=None, tokenizer_class="PreTrainedTokenizerFast")


def change_settings(directory: Path, **changes: str | None) -> None:
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
