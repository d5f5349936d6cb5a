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
    from rich.table import Table

    console = Console(highlight=False)
    lines = run.metrics()
    console.print(f"loss     {lines[0]['loss']:.3f} -> {lines[-1]['loss']:.3f} ({run.path / 'loss.png'})")
    console.print(f"result   {run.result}")
    if probes := run.read_json("probe.json"):
        table = Table(show_lines=True)
        for name in ("prompt", "before", "after"):
            table.add_column(name, overflow="fold", ratio=1 if name == "prompt" else 2)
        for row in probes:
            table.add_row(*(row[name] for name in ("prompt", "before", "after")))
        console.print(table)
    console.print("Try it:", f"  xtune chat {run.path}", sep="\n", soft_wrap=True)
    if run.result.name == "adapter":
        console.print(
            "Ship it:", f"  xtune convert merge {run.path} {run.path}/merged", sep="\n", soft_wrap=True
        )
