"""`xtune train`: run a recipe, or continue a run."""

from __future__ import annotations

import click


@click.command(epilog="Example: xtune train smollm2_lora --set train.lr=5e-4")
@click.argument("recipe", required=False)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, like train.lr=1e-4."
)
@click.option("--run-dir", type=click.Path(), help="Where to keep the run. Default: runs/NAME-DATE-TIME.")
@click.option(
    "--resume",
    "resume_dir",
    type=click.Path(),
    metavar="RUN",
    help="Continue a run from its last checkpoint.",
)
@click.option("--dry-run", is_flag=True, help="Say what would happen; load no weights.")
def train(recipe, overrides, run_dir, resume_dir, dry_run):
    """Train as RECIPE (a file, or a shipped recipe's name) says."""
    from xtune.recipe.load import load_recipe
    from xtune.recipe.overrides import parse_overrides

    if (recipe is None) == (resume_dir is None):
        raise click.UsageError("Name a recipe, or a run to --resume (not both).")
    values = parse_overrides(overrides)
    if resume_dir:
        from xtune.training.train import resume

        _show(resume(resume_dir, values))
        return
    loaded = load_recipe(recipe, values)
    if dry_run:
        from xtune.training.train import describe, prepare

        click.echo(describe(loaded, prepare(loaded)))
        return
    from xtune.training.train import train as run_recipe

    _show(run_recipe(loaded, run_dir=run_dir))


def _show(run) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    lines = run.metrics()
    console.print(
        f"loss     {lines[0]['loss']:.3f} -> {lines[-1]['loss']:.3f} ({run.path / 'loss.png'})",
        soft_wrap=True,
    )
    console.print(f"result   {run.result}", soft_wrap=True)
    if run.read_json("probe.json"):
        console.print(probe_table(run))
    console.print(f"Try it:   xtune chat {run.path}", soft_wrap=True)
    if run.result.name == "adapter":
        console.print(f"Ship it:  xtune convert merge {run.path} {run.path}/merged", soft_wrap=True)


def probe_table(run):
    """The probes' answers before and after, side by side, as a rich table."""
    from rich.table import Table

    table = Table(show_lines=True)
    for name in ("prompt", "before", "after"):
        table.add_column(name, overflow="fold", ratio=2 if name == "prompt" else 3)
    for row in run.read_json("probe.json"):
        table.add_row(row["prompt"], row["before"], row["after"])
    return table
