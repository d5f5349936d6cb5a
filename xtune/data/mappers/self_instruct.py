"""Seed tasks of Self-Instruct (Wang et al. 2022), as Stanford's Alpaca and BELLE publish theirs.

{"instruction": str, "instances": [{"input": str, "output": str}, ...]}: a sample for each of the instances.
"""

from __future__ import annotations

from typing import Any

from xtune.data.findings import Findings, Reject
from xtune.data.mappers.alpaca import ALPACA
from xtune.data.mappers.exchange import is_single
from xtune.data.mappers.mapper import Mapper, columns_of, kind
from xtune.messages import AnySample


def _fits(row: Any) -> bool:
    return is_single(row) and "instruction" in row and isinstance(row.get("instances"), list)


def _map(row: Any, found: Findings) -> list[AnySample]:
    row = columns_of(row, "instruction", "instances")
    instances = row["instances"]
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise Reject("wrong_type", "instances is not a list of objects", kind(instances))
    return [ALPACA.map({**instance, "instruction": row["instruction"]}, found) for instance in instances]


SELF_INSTRUCT = Mapper(
    "self_instruct", "instruction, instances[input, output]", _fits, _map, aliases=("belle_seed_tasks",)
)
