"""Which files of a directory hold data: shards in order, or what `datasets` wrote with save_to_disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from xtune.errors import DataError, UserError
from xtune.json_file import read_json

# What stands beside data: texts for people, checksums, locks, programs, pictures, the hub's and Spark's notes.
_NO_DATA = re.compile(
    r"\..*|_(success|metadata|common_metadata|committed_.*|started_.*)"
    r"|(readme|licen[sc]es?|notice|changelog|citation|requirements)([^a-z.][^.]*)?(\.(txt|cff))?"
    r"|\w*sums?(\.txt)?"
    r"|(dataset_infos?|dataset_dict|state)\.json"
    r"|.*\.(md|rst|lock|sha\d+|md5|crc|sig|asc|py|ipynb|sh|ya?ml|toml|html?|log|idx|png|jpe?g|gif|webp|svg|pdf)",
    re.IGNORECASE,
)
_FOR_TESTS = "test|dev|val|valid|validation|eval|evaluation"
_NO_DATA_FOLDER = re.compile(r"\..*|_temporary|_delta_log|__pycache__")


def directory_files(path: str, split: str | None, notes: bool = False) -> list[str]:
    """The files of a directory that hold its rows, in order; with `notes`, those too that say which these are.

    A directory that save_to_disk wrote lists its own; of a DatasetDict, `split` is taken, or "train". Anything
    else is a directory of shards, at any depth, in natural order (2 before 10); of them `split` takes those that
    have its name in their own or their folders'. Where there are shards of "train" and others to test with, and no
    split is named, those of "train" are taken.

    Raises DataError if there is none, or no such split.
    """
    folder = Path(path)
    if os.path.isfile(note := folder / "dataset_dict.json"):
        splits = [name for name in _list(note, "splits") if isinstance(name, str)]
        chosen = split or "train"
        if chosen not in splits or Path(chosen).name != chosen:
            raise _no_split(path, split, splits)
        return [str(note)] * notes + _saved(folder / chosen, notes)
    if "_data_files" in _note(folder / "state.json"):
        if split is not None:
            raise DataError(
                "This is one split of a dataset, saved without its name.",
                where=path,
                fix="leave out the split",
            )
        return _saved(folder, notes)
    files = sorted(_shards(folder), key=lambda file: _natural(file.relative_to(folder)))
    if split is None and all(_of_split(files, folder, part) for part in ("train", _FOR_TESTS)):
        split = "train"
    if split is not None:
        files = _of_split(files, folder, re.escape(split))
        if not files:
            raise _no_split(path, split, [])
    if not files:
        raise DataError(
            "There is no data file in this directory.",
            where=path,
            fix="put .jsonl, .json, .csv, .tsv, .txt, .parquet or .arrow files into it",
        )
    return [str(file) for file in files]


def _of_split(files: list[Path], folder: Path, name: str) -> list[Path]:
    named = re.compile(rf"(?<![A-Za-z0-9])({name})(?![A-Za-z0-9])")
    return [file for file in files if named.search(str(file.relative_to(folder)))]


def _saved(folder: Path, notes: bool) -> list[str]:
    state = folder / "state.json"
    if _note(state).get("_indices_files") or _note(state).get("_indices_data_files"):
        raise DataError(
            "This dataset was saved with its rows chosen or shuffled by a list of indices, as old versions did.",
            where=str(folder),
            fix="write its rows anew: load_from_disk(...).flatten_indices().save_to_disk(...)",
        )
    files = []
    for entry in _list(state, "_data_files"):
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(folder / name):
            raise DataError(
                f"state.json lists {name!r}, and there is no such file.",
                where=str(folder),
                fix="copy it again, whole",
            )
        files.append(str(folder / name))
    return [str(state)] * notes + files


def _shards(folder: Path) -> list[Path]:
    """The data files in a folder and in those inside it, each folder once even if links lead to it again."""
    files: list[Path] = []
    waiting, seen = [folder], set()
    while waiting:
        here = waiting.pop()
        if (real := os.path.realpath(here)) in seen:
            continue
        seen.add(real)
        try:
            for entry in os.scandir(here):
                if entry.is_dir():
                    if not _NO_DATA_FOLDER.fullmatch(entry.name):
                        waiting.append(Path(entry.path))
                elif not _NO_DATA.fullmatch(entry.name) and not _is_empty(entry):
                    files.append(Path(entry.path))
        except OSError as error:
            raise DataError(
                f"The directory cannot be read: {error.strerror}.", where=str(here), fix="check its rights"
            ) from None
    return files


def _is_empty(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.stat().st_size == 0


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    return [
        [(1, 0, part.lower()) if index % 2 == 0 else (0, int(part), part)]
        for name in path.parts
        for index, part in enumerate(re.split(r"([0-9]+)", name))
    ]


def _note(file: Path) -> dict[str, Any]:
    try:
        return read_json(file) if os.path.isfile(file) else {}
    except (UserError, OSError, RecursionError) as error:
        raise DataError(
            f"{file.name} cannot be read: {error}", where=str(file), fix="copy it again"
        ) from None


def _list(file: Path, key: str) -> list[Any]:
    found = _note(file).get(key)
    if not isinstance(found, list):
        raise DataError(
            f"There is no list {key} in {file.name}.", where=str(file), fix="copy the directory again"
        )
    return found


def _no_split(path: str, split: str | None, splits: list[str]) -> DataError:
    there = f"; there are {', '.join(splits)}" if splits else ": no file or folder in it has that name"
    what = (
        f'There is no split "{split}" here'
        if split
        else "This directory holds several splits, none named train"
    )
    return DataError(
        what + there + ".", where=path, fix='set split = "..." in the source to one that is there'
    )
