"""Finds the format of rows: by its name, or from their columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from xtune.data.files import Record
from xtune.data.mappers import MAPPERS, Mapper
from xtune.data.mappers.mapper import is_preference, kind
from xtune.data.own_format import own_mapper
from xtune.data.report import PLACES
from xtune.errors import DataError, UsageError
from xtune.messages import Document, Labelled, Pair, Prompt, Sample
from xtune.recipe.faults import did_you_mean

# In the order in which they are taken where rows may be read as several.
KINDS: dict[type, str] = {
    Sample: "conversations",
    Pair: "preference pairs",
    Labelled: "labelled answers",
    Prompt: "prompts",
    Document: "documents",
}


KINDS_OF: dict[str, tuple[type, ...]] = {
    "sft": (Sample,),
    "pretrain": (Document,),
    **dict.fromkeys(("dpo", "orpo", "simpo", "cpo", "reward"), (Pair,)),
    "kto": (Labelled,),
    **dict.fromkeys(("grpo", "rloo"), (Prompt,)),
}
"""Objective to the kinds of samples that it learns from."""


@cache
def find_mapper(format: str) -> Mapper:
    """The mapper of that name, or of the user's "file.py:function". Raises UsageError."""
    if ".py:" in format:
        return own_mapper(format)
    named = {name: mapper for mapper in MAPPERS for name in (mapper.name, *mapper.aliases)}
    if format in named:
        return named[format]
    raise UsageError(
        f'There is no format "{format}"{did_you_mean(format.lower(), named) or "."}',
        fix=f"name one of {', '.join(mapper.name for mapper in MAPPERS)}, or auto, or your_file.py:your_function",
    )


def fitting(row: Any, mappers: Sequence[Mapper]) -> list[Mapper]:
    """Those of the mappers that a row fits."""
    return [mapper for mapper in mappers if mapper.fits(row)]


def recognise(first: list[Record], name: str, kinds: Sequence[type] | None) -> tuple[Mapper, str]:
    """The mapper that most of the first rows fit, and the reason in words.

    kinds   what the samples may be; None: anything, conversations rather than anything else

    Raises DataError if none does, or if two of the same kind do.
    """
    rows = [record.row for record in first if not record.fault]
    if not rows:
        faults = [f"{record.place}: {record.fault} ({record.detail})" for record in first[:PLACES]]
        raise DataError(
            "\n  ".join(["No record can be read:", *faults]), where=name, fix="put the file right"
        )
    fits = [fitting(row, MAPPERS) for row in rows]
    wanted = [one for one in KINDS if kinds is None or one in kinds]
    of_kind = [sum(any(mapper.kind is one for mapper in mappers) for mappers in fits) for one in wanted]
    if not any(of_kind):
        raise _unknown(rows, fits, name, kinds)
    chosen = wanted[of_kind.index(max(of_kind))]
    counts: dict[Mapper, int] = {}
    for mappers in fits:
        mine = [mapper for mapper in mappers if mapper.kind is chosen]
        if len(mine) > 1:
            raise _ask(mine, rows, name)
        for mapper in mine:
            counts[mapper] = counts.get(mapper, 0) + 1
    best = max(counts, key=counts.__getitem__)
    others = "".join(f", {counts[other]} {other.columns}" for other in counts if other is not best)
    return best, f"{counts[best]} of the first {len(rows)} rows have {best.columns}{others}"


def _ask(mappers: list[Mapper], rows: list[Any], name: str) -> DataError:
    choices = "\n  ".join(f"{mapper.name}: {mapper.columns}" for mapper in mappers)
    return DataError(
        f"These rows can be read in {len(mappers)} ways:\n  {choices}\n  columns seen: {columns(rows)}",
        where=name,
        fix=f'say which: format = "{mappers[0].name}" in the recipe, --format {mappers[0].name} on the command line',
    )


def _unknown(rows: list[Any], fits: list[list[Mapper]], name: str, kinds: Sequence[type] | None) -> DataError:
    seen = f"\n  columns seen: {columns(rows)}"
    other = next((mapper for mappers in fits for mapper in mappers), None)
    if other:
        return other_kind(other, kinds or (), name, seen)
    if any(isinstance(row, dict) and is_preference(row) for row in rows):
        return DataError(
            f"These rows say which answers are better, in a layout that is not known.{seen}",
            where=name,
            fix="rename the columns to prompt, chosen and rejected",
        )
    known = "; ".join(f"{m.name} ({m.columns})" for m in MAPPERS if kinds is None or m.kind in kinds)
    return DataError(
        f"No known format fits these rows.{seen}\n  formats known: {known}",
        where=name,
        fix="rename the columns to those of a known format, or write a function: format = my_function",
    )


def other_kind(mapper: Mapper, kinds: Sequence[type], name: str, seen: str = "") -> DataError:
    """The error that rows of this format are of another kind than what is wanted."""
    wanted = " or ".join(KINDS[one] for one in kinds)
    return DataError(
        f"These rows are {KINDS[mapper.kind]} ({mapper.name}), not {wanted}.{seen}",
        where=name,
        fix=f"give a file of {wanted}, or name the format it is to be read in",
    )


def columns(rows: list[Any]) -> str:
    """The columns of rows for people, with those one level below: "messages[role, content], label"."""
    seen: dict[str, dict[str, None]] = {}
    for row in rows:
        if not isinstance(row, dict):
            seen.setdefault(f"({kind(row)})", {})
            continue
        for column, value in row.items():
            inner = value[0] if isinstance(value, list) and value else value
            seen.setdefault(column, {}).update(dict.fromkeys(inner if isinstance(inner, dict) else ()))
    shown = [f"{name}[{_some(list(inner))}]" if inner else name for name, inner in seen.items()]
    return _some(shown)


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join([name[:200] for name in names[:most]] + (["..."] if len(names) > most else []))
