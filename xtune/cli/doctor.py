"""`xtune doctor`: what this machine has and lacks, or why a run came out badly."""

from __future__ import annotations

import sys

import click

from xtune.cli.command import Command
from xtune.errors import ResourceError

MARKS = {"ok": ("✓", "green"), "missing": ("–", "yellow"), "broken": ("✗", "red")}


@click.command(cls=Command, epilog="Example: xtune doctor, or xtune doctor runs/first")
@click.argument("run", required=False, type=click.Path())
def doctor(run):
    """Say what this machine has and lacks for xtune. Or, of a RUN that came out badly, what stands out in it, what
    may be the cause, and what to try. Exits with 4 where something that is needed is broken."""
    if run:
        _of_run(run)
    else:
        _of_machine()


def _of_machine() -> None:
    from xtune.run.machine import look

    sections = look()
    for title, items in sections.items():
        click.secho(title, bold=True)
        width = max((len(item.name) for item in items), default=0)
        for item in items:
            mark, colour = MARKS[item.state]
            click.echo(f"  {click.style(mark, fg=colour)} {item.name:{width}}  {item.value}")
            if item.fix:
                click.echo(f"    {'':{width}}  {item.fix}")
    broken = [item.name for items in sections.values() for item in items if item.state == "broken"]
    if broken:
        click.echo(f"Broken: {', '.join(broken)}.", err=True)
        sys.exit(ResourceError.exit_code)


def _of_run(path: str) -> None:
    from pathlib import Path

    from xtune.run.doctor import diagnose
    from xtune.run.summary import read_facts

    facts = read_facts(Path(path))
    for problem in facts.problems:
        click.echo(f"passed over: {problem}", err=True)
    found = diagnose(facts)
    if not (found.seen or found.causes):
        click.echo(f"Nothing stands out in {path}.")
        return
    for title, findings in (
        ("What came out badly", found.seen),
        ("Likely causes, the likeliest first", found.causes),
    ):
        if findings:
            click.secho(title, bold=True)
        for finding in findings:
            click.echo(f"  {finding.what}\n    {finding.evidence}")
            if finding.advice:
                click.echo(f"    try: {finding.advice}")
    if found.seen and not found.causes:
        click.echo(
            "Its figures show no cause. Look at what the model reads and learns: xtune data show FILE."
        )
