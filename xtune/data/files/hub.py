"""Datasets of the Hugging Face hub, by the name they have there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

from xtune.data.files.columnar import row_record
from xtune.data.files.record import Record
from xtune.errors import DataError


def is_hub_dataset(path: str) -> bool:
    """Whether it names a dataset as "tatsu-lab/alpaca" does, and no file."""
    from xtune.families.hub import is_hub_name

    is_file_name = re.search(r"\.(jsonl?|ndjson|csv|tsv|txt|parquet|arrow|gz|bz2|xz|zst|zip)$", path, re.I)
    return is_hub_name(path) and not is_file_name


def hub_records(name: str, split: str | None) -> Iterator[Record]:
    """Yield the rows of a dataset of the hub, downloading as they are read. Raises DataError.

    split  "train" if None
    """
    if find_spec("datasets") is None:
        raise _unavailable(name, "datasets is not installed", 'pip install "xtune[hub]"')
    from huggingface_hub import HfApi, constants

    from xtune.families.hub import network_fault

    offline = constants.HF_HUB_OFFLINE
    if not offline and (fault := network_fault()):
        raise _unavailable(name, fault)
    number = 0
    try:
        if not offline:
            HfApi().dataset_info(name, timeout=5)  # once, where datasets would try again and again
        from datasets import load_dataset

        # Offline, what was downloaded before can still be had.
        rows = load_dataset(name, split=split or "train", streaming=not offline)
        for number, row in enumerate(rows, start=1):
            yield row_record(row, number, name)
    except Exception as error:  # of the network, of the hub and of datasets, in many classes
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
        raise _unavailable(name, f"{reason} (behind row {number})" if number else reason) from None


def _unavailable(name: str, reason: str, fix: str = "give the path of a local copy") -> DataError:
    return DataError(
        f"There is no file or directory {name} here, and no such dataset can be read from the hub: {reason}.",
        where=name,
        fix=fix,
    )
