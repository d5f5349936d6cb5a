"""The section `data` of an XTuner config's datasets, and the chat template they name."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

from xtune.errors import UsageError
from xtune.recipe.legacy.old_config import OldConfig, last_name

FORMATS = {
    "alpaca_map_fn": "alpaca",
    "alpaca_zh_map_fn": "alpaca_zh",
    "arxiv_map_fn": "arxiv",
    "code_alpaca_map_fn": "code_alpaca",
    "colors_map_fn": "colors",
    "crime_kg_assitant_map_fn": "crime_kg_assistant",
    "default_map_fn": "prompt_completion",
    "intel_orca_dpo_map_fn": "pairs",
    "law_reference_map_fn": "law_reference",
    "medical_map_fn": "medical",
    "msagent_react_map_fn": "msagent",
    "oasst1_map_fn": "guanaco",
    "openai_map_fn": "messages",
    "openorca_map_fn": "prompt_completion",
    "orpo_dpo_mix_40k_map_fn": "pairs",
    "pretrain_map_fn": "text",
    "sql_map_fn": "sql",
    "stack_exchange_map_fn": "prompt_completion",
    "tiny_codes_map_fn": "tiny_codes",
    "wizardlm_map_fn": "sharegpt",
}
"""XTuner's map functions, and xtune's names of the rows that they read."""

_BUILDERS = ("json", "csv", "parquet", "arrow", "text", "pandas")
"""What load_dataset calls kinds of files."""

_DONE_ANYWAY = {
    "do_dataset_tokenization": True,
    "input_ids_with_output": True,
    "with_image_token": False,
    "rename_maps": [],
    "min_length": 0,
    "data_order_path": None,
}
_WITHOUT_MEANING = (
    *("remove_unused_columns", "shuffle_before_pack", "map_num_proc", "num_proc", "use_varlen_attn"),
    *("is_dpo", "is_reward", "bot_name", "concat_on_disk", "debug", "seed", "max_refetch"),
)


@dataclass
class Datasets:
    """What is gathered of all datasets.

    row_lengths   of packed rows, in tokens; empty where nothing is packed
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    templates: list[Any] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    row_lengths: list[int] = field(default_factory=list)
    read_at: int | None = None


def import_datasets(loader: OldConfig) -> Datasets:
    """What the recipe's sources are. Raises UsageError for data that xtune does not read."""
    found = Datasets()
    _import_dataset(loader.part("dataset"), found)
    if not found.sources:
        raise loader.wrong("dataset", None, "there is no data to train on", "Name a dataset in the config.")
    return found


def _import_dataset(old: OldConfig, found: Datasets) -> None:
    kind = old.kind()
    if kind == "ConcatDataset":
        by_name = old.part("datasets_cfg")  # until 0.1.10
        for part in [*old.parts("datasets"), *(by_name.part(name) for name in by_name.values)]:
            _import_dataset(part, found)
        old.take("datasets_kwargs")
        return
    importers = {
        "process_hf_dataset": _rows,
        "process_ms_dataset": _rows,
        "build_preference_dataset": _rows,
        "MOSSSFTDataset": _moss,
        "build_packed_dataset": _intern_repo,
    }
    if kind not in importers:
        fix = f"Datasets that can be imported are {', '.join(importers)} and ConcatDataset."
        raise old.wrong("type", kind, "this kind of dataset is not known", fix)
    importers[kind](old, found)
    old.take("tokenizer")
    for name in _WITHOUT_MEANING:
        old.take(name)
    for name, usual in _DONE_ANYWAY.items():
        if (value := old.take(name, usual)) != usual:
            old.note(name, value, "no counterpart")


def _rows(old: OldConfig, found: Datasets) -> None:
    """Rows of a file or of the hub, which a map function reads."""
    if old.values.get("do_dataset_tokenization") is False:
        raise _tokens(old, "do_dataset_tokenization", False)
    options = {
        "format": _format(old, "pairs" if "is_reward" in old.values or "is_dpo" in old.values else "xtuner")
    }
    if (limit := old.take("max_dataset_length")) is not None:
        options["limit"] = limit
    split = old.take("split", "train")
    if split is None:
        old.note("split", None, "only the split train is read; name others as sources of their own")
    elif split != "train":
        options["split"] = split
    paths = _paths(old.part("dataset"), options)
    found.sources += [{"path": path, **options} for path in paths]
    found.templates.append(_template(old))
    _note_lengths(old, found, packed=old.take("pack_to_max_length", "max_packed_length" not in old.values))
    if (token := old.take("reward_token_id")) is not None:
        found.read_at = token


def _moss(old: OldConfig, found: Datasets) -> None:
    found.sources.append({"path": old.take("data_file"), "format": "moss"})
    _note_lengths(old, found, packed=False)


def _intern_repo(old: OldConfig, found: Datasets) -> None:
    inner = old.part("dataset_cfg")
    if (kind := inner.kind()) != "load_intern_repo_untokenized_dataset":
        raise _tokens(inner, "type", kind)
    found.sources.append({"path": inner.take("folder"), "format": "messages"})
    found.templates.append(_template(inner))
    for name in ("tokenizer", "file_type", "max_length", *_DONE_ANYWAY):
        inner.take(name)
    old.values.setdefault("max_length", old.take("packed_length", 2048))
    _note_lengths(old, found, packed=True)


def _note_lengths(old: OldConfig, found: Datasets, *, packed: bool) -> None:
    """Note the longest sample, and the length of a row that holds several."""
    length = old.take("max_length") or 2048
    row = old.take("max_packed_length") if old.values.get("use_varlen_attn") else None
    old.take("max_packed_length")
    found.lengths.append(length)
    if packed or row:
        found.row_lengths.append(row or length)


def _tokens(old: OldConfig, name: str, value: Any) -> UsageError:
    fix = "Name the texts that the tokens were made of."
    return old.wrong(name, value, "xtune reads texts, and these are tokens of one tokenizer", fix)


def _format(old: OldConfig, usual: str) -> str:
    """usual: of rows that no function maps"""
    function = old.take("dataset_map_fn")
    if isinstance(function, dict):  # dict(type=...)
        function = function.get("type")
    if function is None:
        return usual
    if (name := last_name(function)) in FORMATS:
        return FORMATS[name]
    if isinstance(function, FunctionType):
        file = os.path.abspath(function.__code__.co_filename)
        with open(file, encoding="utf-8") as source:
            alone = "xtuner" not in source.read()
    else:  # imported, so only known by its name
        module = str(function).rpartition(".")[0]
        file, alone = f"{module.replace('.', '/')}.py", bool(module) and not module.startswith("xtuner")
    if alone:
        return f"{file}:{name}"
    text = "the format is looked for in the rows; or put the function in a file of its own, and name it as "
    old.note("dataset_map_fn", name, f'{text}format = "FILE.py:{name}": what it returns is read as it is')
    return "auto"


def _template(old: OldConfig) -> Any:
    """What the template is called: "internlm2_chat" of "xtuner.utils.PROMPT_TEMPLATE.internlm2_chat", or a dict."""
    function = old.take("template_map_fn")
    template = function.get("template") if isinstance(function, dict) else None
    return last_name(template) if isinstance(template, str) else template


def _paths(old: OldConfig, options: dict[str, Any]) -> list[str]:
    """The files, or the dataset of the hub, that a load_dataset(...) names."""
    if isinstance(old.values.get("type"), str) and "modelscope" in old.values["type"]:
        text = "it is on ModelScope: download it, and give the path of the copy"
        old.note("dataset_name", old.values.get("dataset_name"), text)
    kind = old.kind()
    path = old.take("path") or old.take("dataset_name") or old.take("dataset_path")
    split = old.take("split", "train")
    for name in ("num_proc", "ignore_verifications", "verification_mode", "cache_dir", "streaming"):
        old.take(name)
    files = old.take("data_files")
    if isinstance(files, dict):
        wanted = options.pop("split", "train")
        for name in set(files) - {wanted}:
            old.note(f"data_files.{name}", files[name], "only what is trained on is read")
        files, split = files.get(wanted), "train"
    if split != "train":
        options["split"] = split
    folder = old.take("data_dir")
    if files and (path in _BUILDERS or not path):
        files = [files] if isinstance(files, str) else list(files)
        return [os.path.join(folder, file) for file in files] if folder else files
    if folder and (path in _BUILDERS or kind == "load_jsonl_dataset"):
        old.take("suffix")
        return [folder]
    for name, value in (("data_files", files), ("data_dir", folder), ("name", old.take("name"))):
        if value:
            old.note(name, value, f"all of {path} is read; download it, and name the files as path")
    if not isinstance(path, str):
        raise old.wrong("path", path, "there is no data to train on", "Name a file or a dataset.")
    return [path]
