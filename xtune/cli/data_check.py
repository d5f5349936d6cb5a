"""`xtune data check`: count what is in data files, and all that is wrong with it."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from xtune.cli.command import Command
from xtune.cli.data import printable, select, source_options

if TYPE_CHECKING:
    from xtune.data.statistics import SourceCheck, Spread

_BAR = 40  # characters of the longest bar
_LANGUAGES = 8  # of the most frequent, that are named


def _threshold(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d+|\d+(\.\d+)?%", value):
        raise click.BadParameter(f"{value!r} is neither a number of records nor a share such as 1%.")
    return value


@click.command(cls=Command, epilog="Example: xtune data check train.jsonl --max-rejected 1%")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@source_options
@click.option("--max-length", type=click.IntRange(min=8), metavar="N", help="Count samples of more tokens.")
@click.option(
    "--max-rejected",
    metavar="N|N%",
    callback=_threshold,
    help="Exit with 3 where more records than this, or more than this share of all, are rejected.",
)
@click.option("--rejects", metavar="FILE", help="Write the rejected rows to a new FILE, as JSON Lines.")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@click.pass_context
def check(context: click.Context, paths, max_length, max_rejected, rejects, as_json, **options):
    """Read data as for training, and count what is in it and what is wrong with it.

    PATH is a file, a directory of files, a name on the hub, or a recipe. Exits with 3 where one cannot be read, or
    more than --max-rejected is rejected.
    """
    from xtune.data.statistics import check_sources

    selected = select(paths, **options)
    data = selected.data
    if max_length is not None:
        data = data.model_copy(update={"max_length": max_length})
    choice = selected.template()
    with _rejects_file(rejects, data.sources) as write:
        tokenizer = selected.tokenizer()
        with _progress() as progress:
            checks = check_sources(
                data.sources,
                tokenizer,
                choice.template,
                data,
                kinds=selected.kinds,
                progress=progress,
                rejects=write,
            )
    if as_json:
        _print_json(checks, selected.model.path, choice.template.name, data.max_length)
    else:
        whose = "the embedded model (--model NAME: of another)" if selected.by_default else "the model"
        click.echo(f"tokenizer of {selected.model.path}, {whose}; template {choice}\n")
        for one in checks:
            click.echo("\n".join([*_lines(one, data.max_length), ""]))
        if len(checks) > 1:
            click.echo("\n".join(_totals(checks)))
        if selected.by_default and any(_not_expressible(one) for one in checks):
            click.echo(
                f"The template {choice.template.name} cannot express some of it; --template qwen3 may."
            )
    unread = sum(one.error is not None for one in checks)
    unread = f"{unread} of {len(checks)} sources cannot be used as they are" if unread else None
    errors = [error for error in (unread, _passed(max_rejected, checks)) if error]
    for error in errors:
        click.echo(f"error: {error}", err=True)
    if errors:
        context.exit(3)


def _not_expressible(check: SourceCheck) -> bool:
    return any(reason.startswith("The chat template") for reason in check.report.rejections)


@contextmanager
def _rejects_file(path: str | None, sources):
    """A function that writes a rejected record to the file, which appears when all is written; or None."""
    import json
    from pathlib import Path

    from xtune.data.clean.write import check_targets, new_file
    from xtune.errors import UsageError

    if path is None:
        yield None
        return
    target = Path(path).expanduser()
    try:
        check_targets([target], [source.path for source in sources], force=False)
    except UsageError as error:
        raise UsageError(error.what, where=error.where, fix="name another file for --rejects") from None
    with new_file(target) as file:

        def write(record, fault):
            line = {"place": record.place, "reason": fault.reason, "detail": fault.detail, "row": record.row}
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

        yield write


@contextmanager
def _progress():
    """A function that shows how far reading has come, on a terminal."""
    from xtune.terminal import progress

    bars, done = {}, Counter()
    with ExitStack() as shown:

        def show(source, read):
            if source.path not in bars:
                bars[source.path] = shown.enter_context(progress(source.path, source.limit, "records"))
            bars[source.path](read - done[source.path])
            done[source.path] = read

        yield show


def _print_json(checks: list[SourceCheck], model: str, template: str, max_length: int) -> None:
    import json

    content = {
        "model": model,
        "template": template,
        "max_length": max_length,
        "sources": [one.to_dict() for one in checks],
        "total": _sums(checks),
    }
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _sums(checks: list[SourceCheck]) -> dict[str, int]:
    return {
        "records": sum(one.report.read for one in checks),
        "kept": sum(one.report.kept for one in checks),
        "rejected": sum(one.report.rejected for one in checks),
        "samples": sum(one.samples for one in checks),
        "tokens": sum(one.tokens for one in checks),
        "tokens_with_loss": sum(one.learnt for one in checks),
    }


def _passed(most: str | None, checks: list[SourceCheck]) -> str | None:
    """The sentence that says so, where more is rejected than may be."""
    if most is None:
        return None
    total = _sums(checks)
    rejected, records = total["rejected"], total["records"]
    share = most.endswith("%")
    if rejected <= (float(most[:-1]) / 100 * records if share else int(most)):
        return None
    return f"{rejected} of {records} records ({_share(rejected, records)}) are rejected, more than {most}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.3g}%"


def _totals(checks: list[SourceCheck]) -> list[str]:
    total = _sums(checks)
    return [
        f"{len(checks)} sources",
        f"  records     {total['records']:,}: {total['kept']:,} kept, {total['rejected']:,} rejected",
        f"  samples     {total['samples']:,}",
        f"  tokens      {total['tokens']:,}, with loss {total['tokens_with_loss']:,}",
    ]


def _lines(one: SourceCheck, max_length: int) -> list[str]:
    """What is known of a source, for people."""
    report, place = one.report, _place_in(one.source.path)
    lines = [click.style(one.source.path, bold=True)]

    def say(title: str, text: str) -> None:
        lines.append(f"  {title:11} {text}")

    for file in report.formats:
        say("format", f"{file.format} ({file.why})")
    if one.error:
        first, *more = printable(str(one.error)).split("\n")
        say("error", click.style(first, fg="red"))
        lines.extend(f"  {'':11} {line}" for line in more)
    if not report.read:
        return lines
    repaired = f" ({report.repaired:,} of them repaired)" if report.repaired else ""
    rejected = f"{report.rejected:,} rejected ({_share(report.rejected, report.read)})"
    say("records", f"{report.read:,}: {report.kept:,} kept{repaired}, {rejected}")
    if one.samples:
        labelled = (
            f": {one.good:,} good, {one.samples - one.good:,} bad" if one.kind == "labelled answers" else ""
        )
        say("samples", f"{one.samples:,} {one.kind}{labelled}")
        say("tokens", f"{one.tokens:,}, with loss {one.learnt:,} ({_share(one.learnt, one.tokens)})")
        say("too long", f"{one.overlong:,} over max_length ({max_length:,} tokens)")
        say("duplicates", f"{one.duplicates:,} records")
        lines.extend(f"  {'':11}   {place(again)} = {place(first)}" for again, first in one.repeated)
        languages = [f"{name} {share:.1%}" for name, share in one.languages.items()]
        say("languages", ", ".join(languages[:_LANGUAGES]) + (", …" if len(languages) > _LANGUAGES else ""))
    for title, tallies in (
        ("rejected", report.rejections),
        ("repaired", report.repairs),
        ("found, and kept as it is", report.notes),
    ):
        lines += _table(title, tallies, place)
    if one.samples:
        lines += _histogram("tokens", one.lengths)
        lines += ["", f"  {'tokens':>11} {click.style('longest samples', bold=True)}"]
        lines += [f"  {tokens:>11,} {place(at)}" for tokens, at in one.longest]
        if one.turns.longest:
            lines += _histogram("turns", one.turns)
    return lines


def _place_in(path: str):
    """A function that shortens a place in this file or directory, whose path is said already."""
    folder = path.rstrip("/") + "/"
    start = len(folder) if os.path.isdir(path) else len(path) - len(os.path.basename(path))
    return lambda place: place[start:] if place.startswith(path) else place


def _table(title: str, tallies, place) -> list[str]:
    """Reasons by how often, with the first places."""
    lines = ["", f"  {'records':>11} {click.style(title, bold=True)}"] if tallies else []
    for reason, tally in sorted(tallies.items(), key=lambda item: -item[1].count):
        more = ", …" if tally.count > len(tally.places) else ""
        places = printable(", ".join(map(place, tally.places)))
        lines += [f"  {tally.count:>11,} {printable(reason)}", f"  {'':11}   {places}{more}"]
    return lines


def _histogram(name: str, spread: Spread) -> list[str]:
    """Bars, with the numbers that half, 90 % and 99 % of the samples do not exceed."""
    bins = spread.histogram()
    most = max(count for _, _, count in bins)
    numbers = ", ".join(f"{percent}% up to {spread.percentile(percent):,}" for percent in (50, 90, 99))
    lines = [
        "",
        f"  {name:>11} {click.style('samples', bold=True)} ({numbers}, all up to {spread.longest:,})",
    ]
    for low, high, count in bins:
        edges = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        bar = "#" * -(-count * _BAR // most)
        lines.append(f"  {edges:>11} {count:>7,}  {bar}".rstrip())
    return lines
