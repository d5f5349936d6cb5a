"""Whether the files that a run's data came from are still the same when it goes on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from xtune.data.cache_key import file_hash, files_of
from xtune.errors import DataError
from xtune.recipe.schema import Data, Source
from xtune.run.directory import Run
from xtune.training.group import way_on

_NAME = "data_files.json"


def record_of(data: Data) -> dict[str, Any]:
    """What the files of the data hold now, as the file of the run directory that tells it."""
    return {_NAME: [_record(source) for source in data.sources]}


def check_unchanged(run: Run, data: Data) -> None:
    """Raise DataError where files are not what was recorded of them. Sources that were not there are passed over."""
    before = {(one["path"], one["split"]): one["files"] for one in run.read_json(_NAME) or []}
    differences = []
    for number, source in enumerate(data.sources):
        then = before.get((source.path, source.split))
        if then is not None and (told := _differences(then, _record(source)["files"])):
            differences += told
            same = f"data.sources.{number}.path={source.path}"
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise DataError(
            f"The data is not what this run began with: {'; '.join(differences[:5])}{more}.",
            where=str(run.path / _NAME),
            fix=f"Put it back as it was. To go on with it as it is now: {way_on(run.path)} --set {same}",
        )


def _record(source: Source) -> dict[str, Any]:
    files = {file: {"bytes": _size(file), "sha256": file_hash(file).hex()} for file in files_of(source)}
    return {"path": source.path, "split": source.split, "files": files}


def _size(file: str) -> int | None:
    return os.path.getsize(file) if Path(file).is_file() else None


def _differences(then: dict[str, dict], now: dict[str, dict]) -> list[str]:
    told = []
    for file in sorted(then.keys() | now.keys()):
        old, new = then.get(file), now.get(file)
        if new is None or new["bytes"] is None:
            told.append(f"{file} is gone")
        elif old is None:
            told.append(f"{file} is new")
        elif old != new:
            told.append(f"{file} has changed ({old['bytes']:,} bytes then, {new['bytes']:,} now)")
    return told
