"""What lies beside merged weights: config.json, the publisher's code, tokenizer and template."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.convert.layout import add_older_names
from xtune.convert.reward import become_classifier, reward_layout
from xtune.convert.rope import rope_entries
from xtune.convert.shards import Merging
from xtune.convert.standalone import change_settings, write_companions
from xtune.convert.weights import dtype_on_disk
from xtune.families import read_config, read_layout
from xtune.families.embedded import model_directory
from xtune.json_file import write_json
from xtune.model.health import meta_model
from xtune.model.reward import add_head, pad_beside
from xtune.run.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def described_model(target: Target, tokenizer: PreTrainedTokenizerFast, *, native: bool) -> PreTrainedModel:
    """The model that is to be written, of the class that will load it, without weights.

    Raises UsageError where there is no such class, or layout of a publisher's.
    """
    base = model_directory(target.base)
    # with a config of its own, which changes
    model = meta_model(base, read_layout(base, target.options), target.options)
    if target.reward and native:
        add_head(model, seed=0)
        become_classifier(model)
    elif target.reward:
        reward_layout(base, target, tokenizer)
    elif native and hasattr(model, "to_stock"):
        model.to_stock()
    return model


def write_beside(
    merging: Merging,
    described: PreTrainedModel,
    target: Target,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
) -> None:
    """Write all but the weights into `directory`, where these are already."""
    native = merging.native
    file, config = directory / "config.json", described.config
    rows = merging.adapted.model.config.get_text_config().vocab_size
    if target.reward:
        pad_beside(tokenizer, target.template, target.read_at)
    if native and (target.reward or merging.layout):
        text = config.get_text_config()
        text.vocab_size = rows
        if merging.untied:
            config.tie_word_embeddings = text.tie_word_embeddings = False
        if target.reward:
            config.pad_token_id = tokenizer.pad_token_id
        config.architectures, config.dtype = [type(described).__name__], dtype_on_disk(directory)
        config.save_pretrained(directory)
        add_older_names(file)
    else:
        _write_as_base(merging, target, tokenizer, directory, rows)
    write_companions(target, tokenizer, directory, native=native)
    if target.reward and native:
        change_settings(directory, pad_token=tokenizer.pad_token)


def _write_as_base(
    merging: Merging, target: Target, tokenizer: PreTrainedTokenizerFast, directory: Path, rows: int
) -> None:
    """config.json as the base has it, changed only in what is another; and, of a publisher's layout, his code."""
    base, layout, options = model_directory(target.base), merging.layout, target.options
    published = read_config(base)
    config: dict[str, Any] = copy.deepcopy(published)
    text = config.get("text_config", config)
    if merging.rows:
        text |= dict.fromkeys({"vocab_size", "padded_vocab_size"} & text.keys(), rows)
    if merging.untied:
        config["tie_word_embeddings"] = text["tie_word_embeddings"] = False
    if layout:
        config |= rope_entries(base, options, merging.adapted.model.config)
        for code in base.glob("*.py"):
            shutil.copyfile(code, directory / code.name)
    else:
        config.pop("auto_map", None)  # transformers' own classes need no code
    if target.reward:
        config.pop("auto_map", None)
        config |= reward_layout(base, target, tokenizer)
    file = directory / "config.json"
    if config == published:
        shutil.copyfile(base / "config.json", file)
    else:
        write_json(file, config)
    if options.rope_scaling and not layout:
        own = merging.adapted.model.config.get_text_config().to_dict()
        text |= {name: own[name] for name in ("rope_parameters", "max_position_embeddings") if name in own}
        write_json(file, config)
        add_older_names(file)
