"""Runs the steps over the rows of data sources, and writes what stays, what goes and why."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

from xtune.data.clean.contamination import Contamination
from xtune.data.clean.exact import ExactDuplicates
from xtune.data.clean.near import Fingerprint, fingerprint, near_duplicates
from xtune.data.clean.options import Options
from xtune.data.clean.report import CleanReport, removal_dict
from xtune.data.clean.row import Removal, Row, make_row
from xtune.data.clean.rules import boilerplate, length, repetition, symbols
from xtune.data.clean.write import check_targets, new_file
from xtune.data.language import detect_language
from xtune.data.read import iterate_mapped
from xtune.data.recognise import find_mapper
from xtune.data.report import DataReport
from xtune.errors import DataError, UsageError
from xtune.messages import AnySample
from xtune.recipe.schema import Source

Step = Callable[[Row], Removal | None]
Progress = Callable[[Iterable[Any], str], Iterable[Any]]
"""Passes things through, showing how many; the text says what is being done."""


def clean(
    sources: Sequence[Source],
    out: Path,
    options: Options | None = None,
    *,
    removed: Path | None = None,
    force: bool = False,
    actions: Mapping[str, str] | None = None,
    progress: Progress = lambda things, _: things,
) -> CleanReport:
    """Write the rows that stay to `out` as JSON Lines, as they are and in order, and the report to `out`.report.json.

    sources  of one format
    removed  a file for the rows that go, each with its reason
    force    write over files that are there
    actions  what is done about defects of records, as in the recipe's `data.defects`

    The rows are read once. In memory are a hash of each row and 4 bytes for each of its words.

    Raises as reading data does; UsageError where a file is there already or the sources are of several formats;
    DataError where no row stays; ResourceError where the disk is full. Nothing is written then.
    """
    options = options or Options()
    report_file = out.with_name(f"{out.name}.report.json")
    targets = [out, report_file, *([removed] if removed else [])]
    check_targets(targets, [*(source.path for source in sources), *filter(None, [options.against])], force)
    report = CleanReport(str(out), options)
    steps = _steps(options, report, progress)
    with ExitStack() as stack:
        # Closed from the last to the first, so that OUT appears when all else is there.
        files = [stack.enter_context(new_file(target)) for target in targets]
        staying = stack.enter_context(
            tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=out.parent)
        )
        gone = files[2] if removed else None
        fingerprints: list[Fingerprint] = []
        for row in progress(_rows(sources, report.data, actions), "reading"):
            line = json.dumps(row.row, ensure_ascii=False) + "\n"
            why = next(filter(None, (step(row) for step in steps)), None)
            if why:
                _remove(report, gone, row.place, line, why)
                continue
            staying.write(line)
            fingerprints.append(fingerprint(row) if options.near else Fingerprint(row.place, None, None))
        staying.seek(0)
        verdicts = near_duplicates(fingerprints, options.threshold) if options.near else repeat(None)
        for passed, line, why in zip(
            progress(fingerprints, "near duplicates"), staying, verdicts, strict=options.near
        ):
            if why:
                _remove(report, gone, passed.place, line, why)
            else:
                report.kept += 1
                files[0].write(line)
        if not report.kept:
            raise DataError(f"No row would stay.\n{report}", fix="leave out a step, or change its number")
        json.dump(report.to_dict(), files[1], indent=1, ensure_ascii=False)
    return report


def _steps(options: Options, report: CleanReport, progress: Progress) -> list[Step]:
    """The steps that look at one row after the other. Duplicates last: what else goes is no row to stay for them."""
    steps: list[Step] = []
    if options.rules:
        steps += [
            partial(length, least=options.min_chars, most=options.max_chars),
            partial(symbols, most=options.max_symbols),
            partial(repetition, most=options.max_repetition),
        ]
    if options.boilerplate:
        steps.append(boilerplate)
    if options.languages:
        steps.append(partial(language, keep=options.languages))
    if options.against:
        report.held_out = DataReport()
        held_out = _rows([Source(path=options.against)], report.held_out, None)
        steps.append(Contamination(progress(held_out, "reading what is held out"), options.ngram))
    if options.exact:
        steps.append(ExactDuplicates())
    return steps


def language(row: Row, keep: Sequence[str]) -> Removal | None:
    """Removes rows in another language than these. What cannot be told stays: numbers and code have none."""
    # Half of what is looked at is for the answer, whatever the length of the question.
    found = detect_language(f"{row.question[:250]}\n{(row.answer or '')[:250]}")
    return None if found in (*keep, "und") else Removal("other language", found)


def _rows(sources: Sequence[Source], total: DataReport, actions: Mapping[str, str]) -> Iterator[Row]:
    """The rows that can be read, accounting into `total`. Raises UsageError where two sources differ in format."""
    format = None
    for source in sources:
        report = DataReport()
        for record, samples in iterate_mapped(source, report, actions=actions):
            [read_as] = report.formats
            format = format or read_as.format
            if read_as.format != format:
                raise UsageError(
                    f"The sources have different formats: {format} and {read_as.format}.",
                    where=source.path,
                    fix="clean each of them by itself",
                )
            row = _as_conversation(samples) if find_mapper(format).gather else record.row
            yield make_row(record.place, row, samples)
        total += report


def _as_conversation(samples: Sequence[AnySample]) -> dict[str, Any]:
    """A row made of several rows of the file, as one that can be read again."""
    [sample] = samples
    return {"messages": [{"role": turn.role, "content": turn.content} for turn in sample.messages]}


def _remove(report: CleanReport, gone: TextIO | None, place: str, line: str, why: Removal) -> None:
    report.removals.append((place, why))
    if gone:
        head = json.dumps({"place": place, **removal_dict(why)}, ensure_ascii=False)
        gone.write(f'{head[:-1]}, "row": {line[:-1]}}}\n')
