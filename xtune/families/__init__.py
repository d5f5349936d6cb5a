"""The families xtune loads, in the order they are tried; and finding the one a directory belongs to."""

from __future__ import annotations

import json
from pathlib import Path

from xtune.errors import UsageError
from xtune.families import native, smollm2
from xtune.families.family import Family

FAMILIES: tuple[Family, ...] = (smollm2.FAMILY, native.FAMILY)


def read_config(directory: Path) -> dict:
    """config.json of a model directory. Raises UsageError where there is none or it is not JSON."""
    path = directory / "config.json"
    if not path.is_file():
        holds = "is not a directory" if not directory.is_dir() else "has no config.json"
        raise UsageError(
            f"No model at {directory}: it {holds}.",
            where="model.path",
            fix='Give a directory with config.json and *.safetensors, or the embedded model "smollm2".',
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"config.json is not JSON: {error}", where=str(path), fix="Copy the file again."
        ) from None


def find_family(directory: Path, name: str = "auto") -> Family:
    """The family of a model directory: the one named, or the first that recognises its config.json."""
    if name != "auto":
        for family in FAMILIES:
            if family.name == name:
                return family
        raise UsageError(
            f"There is no model family {name!r}.",
            where="model.family",
            fix="Use auto or one of: " + ", ".join(family.name for family in FAMILIES),
        )
    config = read_config(directory)
    for family in FAMILIES:
        if family.recognises(config):
            return family
    raise UsageError(
        f"No family recognises this checkpoint (model_type {config.get('model_type')!r}, with remote code).",
        where=str(directory / "config.json"),
        fix="Known families: " + ", ".join(family.name for family in FAMILIES),
    )
