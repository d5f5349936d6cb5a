"""`xtune runs`: list runs, compare them, write their reports."""

from __future__ import annotations

from pathlib import Path

import click

from xtune.cli.command import Command, Group


class ListedByDefault(Group):
    """`xtune runs` and `xtune runs DIR` are `xtune runs list`."""

    def parse_args(self, context, args):
        if not {*args} & {*self.commands, *context.help_option_names}:
            args = ["list", *args]
        return super().parse_args(context, args)


@click.group(
    cls=ListedByDefault, epilog="Example: xtune runs, then xtune runs compare runs/first runs/second"
)
def runs() -> None:
    """List runs: `xtune runs` those under runs/, `xtune runs DIR` those in another folder. Compare them, and write
    their reports."""


@runs.command("list", cls=Command, epilog="Example: xtune runs list --json")
@click.argument("folder", type=click.Path(path_type=Path), default="runs", metavar="[DIR]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def list_runs(folder, as_json):
    """List the runs in DIR (default: runs/), the oldest first."""
    from xtune.run.summary import find_runs, summarise

    found, passed = find_runs(folder)
    summaries = [summarise(facts) for facts in found]
    if as_json:
        import json

        click.echo(json.dumps([summary.to_dict() for summary in summaries], indent=2))
    else:
        _print_table(summaries)
    for reason in passed:
        click.echo(f"passed over: {reason}", err=True)
    if not found:
        click.echo(f"There are no runs in {folder}.", err=True)


@runs.command(cls=Command, epilog="Example: xtune runs compare runs/first runs/second")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="compare.html",
    show_default=True,
    help="The page with their curves.",
)
def compare(paths, out):
    """Compare runs: what their recipes say otherwise, their figures, and their curves in one picture."""
    from xtune.run import compare
    from xtune.run.summary import read_facts

    if not 2 <= len(paths) <= compare.MOST:
        raise click.UsageError(f"Name 2 to {compare.MOST} runs.")
    found = [read_facts(path) for path in paths]
    compare.write_comparison(found, out)
    names = compare.names(found)
    _print_rows(("", *names), compare.side_by_side(found))
    if rows := compare.differences([facts.recipe for facts in found]):
        _print_rows(("recipe", *names), rows)
    else:
        click.echo("Their recipes say the same.")
    click.echo(f"curves   {out}")


@runs.command(cls=Command, epilog="Example: xtune runs report runs/first")
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN")
def report(path):
    """Write report.html into RUN: all that there is to see of it, in one file for a browser."""
    from xtune.run.report import write_report
    from xtune.run.summary import read_facts

    click.echo(write_report(read_facts(path).run))


def _print_table(summaries) -> None:
    from xtune.run.report import size, when
    from xtune.run.report_charts import number

    table = _table("name", "started", "model", "method", "objective", "state")
    for name in ("steps", "first", "last", "held out", "tokens/s", "size"):
        table.add_column(name, justify="right")
    for one in summaries:
        told = [one.first, one.last, one.held_out_last, one.tokens_per_second]
        steps = f"{one.steps}/{one.of}" if one.of else str(one.steps)
        model = one.model if len(one.model) < 30 else f"…/{Path(one.model).name}"
        table.add_row(
            one.name, when(one.started), model, one.method, one.objective, one.state, steps,
            *map(number, told), size(one.bytes),
        )  # fmt: skip
    if summaries:
        _console().print(table)


def _print_rows(titles, rows) -> None:
    table = _table(*titles)
    for name, values in rows:
        table.add_row(name, *values)
    _console().print(table)


def _table(*titles):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*titles, box=SIMPLE_HEAD, pad_edge=False, header_style="")


def _console():
    """Of a pipe, as wide as what is written there."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=1000)
