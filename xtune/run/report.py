"""report.html: what there is to see of a run, in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from xtune.errors import UsageError
from xtune.home import is_disk_full, write_whole
from xtune.recipe.write import recipe_source
from xtune.run import report_charts
from xtune.run.directory import Run
from xtune.run.report_charts import charts, number
from xtune.run.summary import Facts, Summary, read_facts, summarise

NAME = "report.html"


def write_report(run: Run, ended: str | None = None) -> Path:
    """Write report.html into a run's directory, whole or not at all, of as much of the run as there is.

    ended   how the run ended, where its process tells, which still holds the run's lock
    """
    file, facts = run.path / NAME, read_facts(run.path)
    if ended:
        facts = replace(facts, state=facts.state | {"state": ended})
    write_page(file, render(facts))
    return file


def write_page(file: Path, html: str) -> None:
    """Write a page, whole or not at all. Raises UsageError where it cannot be written."""
    try:
        # What a model answers may hold halves of characters, which UTF-8 has not.
        write_whole(file, html.encode("utf-8", "xmlcharrefreplace"))
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UsageError(
            f"{file} cannot be written: {error.strerror}.", where=str(file), fix="Name a place of yours."
        ) from None


def render(facts: Facts) -> str:
    """The page, as HTML. All that comes from a run is text in it, never markup."""
    summary = summarise(facts)
    source = facts.run.recipe_file.read_text(encoding="utf-8", errors="replace")
    return page(
        "report.html.jinja",
        charts=charts(facts),
        facts=facts,
        figures=figures(summary),
        recipe=source,
        resolved=recipe_source(facts.recipe, resolved=True),
        skipped=[line for line in facts.lines if "skipped" in line],
        summary=summary,
        tallies=_tallies(facts.data),
        histogram=_histogram(facts.data),
    )


def page(template: str, **content: Any) -> str:
    """A page by one of the templates beside this file, as HTML. Its script is allowed by its hash: no other runs."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("xtune.run", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number,
        "duration": duration,
        "size": size,
        "when": when,
        "percent": "{:.0%}".format,
    }
    script = environment.loader.get_source(environment, "report.js")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        chart=report_charts, script=script, script_hash=f"sha256-{digest}", **content
    )


def figures(summary: Summary) -> list[tuple[str, str]]:
    """The key figures: name and value."""
    name = summary.judged_by
    of = f" of {summary.of:,}" if summary.of else ""
    shown = [
        (name, _change(summary.first, summary.last)),
        (f"{name}, held out", _change(summary.held_out_first, summary.held_out_last)),
        ("steps", f"{summary.steps:,}{of}"),
        ("time in steps", duration(summary.seconds)),
        ("tokens/s", number(summary.tokens_per_second)),
        ("peak memory", f"{number(summary.peak_memory_gib)} GiB" if summary.peak_memory_gib else ""),
    ]
    return [(name, value) for name, value in shown if value not in ("", "–")]


def _change(first: float | None, last: float | None) -> str:
    return "" if first is None or last is None else f"{number(first)} → {number(last)}"


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 5 h 3 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """512 bytes, 3.1 MB."""
    from rich.filesize import decimal

    return decimal(int(count))


def when(text: str) -> str:
    """2025-01-31 12:05, of a time in ISO format."""
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")
    except (ValueError, TypeError):
        return str(text)


def _tallies(data: dict[str, Any]) -> list[tuple[str, str, int, Sequence[str]]]:
    """(what was done, reason, records, places) of the data report, the most frequent first."""
    found = []
    for name, title in (("rejections", "rejected"), ("repairs", "repaired"), ("notes", "kept as it is")):
        tallies = data.get(name) or {}
        for reason, tally in sorted(tallies.items(), key=lambda item: -item[1]["count"]):
            found.append((title, reason, tally["count"], tally["places"]))
    return found


def _histogram(data: dict[str, Any]) -> list[tuple[str, int, float]]:
    """(tokens, samples, share of the fullest bin)."""
    bins = (data.get("lengths") or {}).get("histogram") or []
    most = max((one["count"] for one in bins), default=0)
    return [(_range(one), one["count"], one["count"] / most) for one in bins if most]


def _range(one: dict[str, int]) -> str:
    return f"{one['from']:,}" if one["from"] == one["to"] else f"{one['from']:,}–{one['to']:,}"
