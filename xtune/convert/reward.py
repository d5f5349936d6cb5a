"""Writing reward models: for transformers' classes of classifiers, or as the publisher's own reward models are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtune.convert.disk import check_place, disk_errors
from xtune.convert.layout import SHARD, add_older_names, write_model
from xtune.convert.standalone import change_settings, write_companions
from xtune.convert.weights import dtype_on_disk, size_on_disk
from xtune.errors import UsageError
from xtune.families import read_config, read_layout
from xtune.families.embedded import model_directory
from xtune.families.layout import Rename
from xtune.families.reward import HEAD
from xtune.families.tokenizer import load_tokenizer
from xtune.home import new_directory
from xtune.json_file import write_json
from xtune.model.load import load_model
from xtune.model.reward import pad_beside, read_token
from xtune.run.target import Target

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def export_reward(target: Target, out: Path, pattern: Path, *, original: bool) -> None:
    """export for a whole reward model; pattern: a directory in the layout that it is to have."""
    source = model_directory(target.base)
    tokenizer = load_tokenizer(target.base, family=target.options.family)
    companions = replace(target, base=str(pattern))
    if original:
        reward_layout(pattern, target, tokenizer)
    check_place(out, size_on_disk(source))
    with disk_errors(out), new_directory(out) as work:
        model = load_model(source, dtype=dtype_on_disk(source), device="cpu", options=target.options)
        write_reward_model(model, companions, tokenizer, work, original=original)


def write_reward_model(
    model: PreTrainedModel,
    target: Target,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    *,
    original: bool = False,
) -> None:
    """Write a reward model, with tokenizer and template, into `directory`, which exists.

    target      what it was made of: base, template, options, where its scores are read
    original    as the publisher's own reward models are, else for AutoModelForSequenceClassification

    Raises UsageError where there is no such layout, or class. The model may be another afterwards.
    """
    if original:
        entries = reward_layout(model_directory(target.base), target, tokenizer)
        _write_as_base(model, target, tokenizer, directory, entries)
        return
    become_classifier(model)
    pad_beside(tokenizer, target.template, target.read_at)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(directory, max_shard_size=SHARD)
    add_older_names(directory / "config.json")
    write_companions(target, tokenizer, directory, native=True)
    change_settings(directory, pad_token=tokenizer.pad_token)


def write_trained(
    model: PreTrainedModel, target: Target, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> None:
    """The result of full training: for transformers' classes; of a model that none of them computes, with the base's
    names, for xtune alone."""
    try:
        become_classifier(model)
    except UsageError:
        name = type(model).__name__.replace("RewardModel", "ForSequenceClassification")
        entries = {"architectures": [name], "id2label": {"0": HEAD}}
        _write_as_base(model, target, tokenizer, directory, entries)
    else:
        write_reward_model(model, target, tokenizer, directory)


def _write_as_base(
    model: PreTrainedModel,
    target: Target,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    entries: dict[str, Any],
) -> None:
    """In the layout of the base, with other entries in config.json."""
    write_model(model, model_directory(target.base), directory, options=target.options)
    config = {key: value for key, value in read_config(directory).items() if key != "auto_map"}
    write_json(directory / "config.json", config | entries)
    write_companions(target, tokenizer, directory)


def become_classifier(model: PreTrainedModel) -> None:
    """Make a model one of transformers' classes for sequence classification, which have the same layers by the same
    names. Raises UsageError where none computes it."""
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    reason = ""
    try:
        if hasattr(model, "to_stock"):  # one of our classes
            model.to_stock()
    except UsageError as error:
        reason = f" ({error.what.rpartition(': ')[2].rstrip('.')})"
    classifier = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    if reason or classifier is None or classifier.base_model_prefix != model.base_model_prefix:
        raise UsageError(
            f"transformers has no class for sequence classification that computes this model{reason}.",
            where="AutoModelForSequenceClassification",
            fix="Score with xtune.load_reward_model: of the run, or of the adapter beside its base.",
        )
    model.__class__ = classifier


def reward_layout(base: Path, target: Target, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What the config.json of `base` must say otherwise for a reward model of its publisher's. Raises UsageError where
    the publisher has none, or reads scores elsewhere."""
    layout = read_layout(base, target.options)
    native = f"^{HEAD}."
    if not layout or not any(
        isinstance(entry, Rename) and entry.native == native for entry in layout.weights
    ):
        raise UsageError(
            "There is no layout of its publisher's for reward models of this family.",
            where="--layout original",
            fix="Write one for transformers: xtune convert merge RUN OUT, or export with --layout native.",
        )
    token = target.read_at
    index = read_token(tokenizer, token)
    if index is None or token in target.template.guarded_tokens:
        raise UsageError(
            "The publisher's code reads scores at a token that it puts behind the text, this model has learnt to give "
            + ("them at the last." if index is None else f"them at {token}, within it."),
            where="--layout original",
            fix='Train with read_at = "[UNUSED_TOKEN_130]" in train.objective; or keep transformers\' layout.',
        )
    code = base / "modeling_internlm2.py"
    name = "InternLM2ForRewardModel"
    published = read_config(base).get("auto_map") or {}
    auto_map = {key: value for key, value in published.items() if key == "AutoConfig"}
    if code.is_file() and f"class {name}(" in code.read_text(encoding="utf-8", errors="replace"):
        auto_map["AutoModel"] = f"modeling_internlm2.{name}"
    return {"architectures": [name], "reward_token_id": index, "auto_map": auto_map}
