"""`xtune train`: run a recipe, or continue a run."""

from __future__ import annotations

import math

import click

from xtune.cli.command import Command, RecipeName


@click.command(cls=Command, epilog="Example: xtune train smollm2_lora --set train.lr=5e-4")
@click.argument("recipe", required=False, type=RecipeName())
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
@click.option(
    "--nproc",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Train in N processes, one for each GPU; the batch stays the recipe's.",
)
@click.option("--profile", is_flag=True, help="Show where the time of a step goes: RUN/profile.txt.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would happen, and whether it would go well; load no weights."
)
def train(recipe, overrides, run_dir, resume_dir, nproc, profile, dry_run):
    """Train as RECIPE (a file, or a shipped recipe's name) says."""
    from xtune.ranks import rank, ranks
    from xtune.recipe.load import load_recipe
    from xtune.recipe.overrides import parse_overrides
    from xtune.training.group import reporting

    if (recipe is None) == (resume_dir is None):
        raise click.UsageError("Name a recipe, or a run to --resume (not both).")
    if dry_run and resume_dir:
        raise click.UsageError("--dry-run tells of a recipe, not of a run to --resume.")
    if profile and resume_dir:
        raise click.UsageError("--profile looks at a run from its start: name a recipe.")
    values = parse_overrides(overrides)
    with reporting():
        if nproc > 1 and ranks() > 1:
            raise click.UsageError("The processes are started already: leave out --nproc.")
        if dry_run:
            _dry_run(load_recipe(recipe, values), max(nproc, ranks()), run_dir)
            return
        if nproc > 1:
            _launch(recipe, overrides, values, run_dir, resume_dir, nproc, profile)
            return
        if resume_dir:
            from xtune.training.train import resume

            run = resume(resume_dir, values)
        else:
            from xtune.training.train import train as run_recipe

            run = run_recipe(load_recipe(recipe, values), run_dir=run_dir, profile=profile)
        if rank() == 0:
            _show(run)


def _dry_run(recipe, processes, run_dir):
    """What would happen, and whether it would come out well; exits with the code of the first fault."""
    from pathlib import Path

    from xtune.training.preflight import preflight
    from xtune.training.train import describe, prepare

    preparation = prepare(recipe, processes)
    click.echo(describe(recipe, preparation) + "\n")
    faults = []
    for finding in preflight(recipe, preparation, Path(run_dir) if run_dir else Path("runs")):
        click.echo(str(finding))
        faults += [finding.error] if finding.error else []
    if faults:
        click.get_current_context().exit(faults[0].exit_code)


def _launch(recipe, overrides, values, run_dir, resume_dir, processes, profile):
    """The same command in several processes, the first of which shows the result."""
    from pathlib import Path

    from xtune.recipe.load import load_recipe
    from xtune.run.directory import new_run_path, open_run
    from xtune.training.launch import launch

    if resume_dir:
        path = open_run(Path(resume_dir)).path
        arguments = ["--resume", str(path)]
    else:
        path = new_run_path(load_recipe(recipe, values), Path(run_dir) if run_dir else None)
        arguments = [recipe, "--run-dir", str(path), *(["--profile"] if profile else [])]
    for override in overrides:
        arguments += ["--set", override]
    launch(arguments, processes, path)


def _show(run) -> None:
    from rich.console import Console

    from xtune.run.curve import judged_by

    console = Console(highlight=False)
    lines = run.metrics()
    learnt = [line for line in lines if "skipped" not in line] or lines
    if skipped := len(lines) - len(learnt):
        console.print(f"skipped  {skipped} of {len(lines)} steps ({run.path / 'bad_steps'})", soft_wrap=True)
    name = judged_by(lines[0])
    first, last = (math.nan if line[name] is None else line[name] for line in (learnt[0], learnt[-1]))
    console.print(f"{name:8} {first:.3f} -> {last:.3f} ({run.path / 'loss.png'})", soft_wrap=True)
    console.print(f"result   {run.result}", soft_wrap=True)
    if (run.path / "report.html").is_file():
        console.print(f"report   {run.path / 'report.html'}", soft_wrap=True)
    if run.read_json("probe.json"):
        console.print(probe_table(run))
    if "accuracy" in lines[-1]:
        console.print(accuracy_table(run))
        console.print(f"Use it:   xtune.load_reward_model({str(run.path)!r}).score(…)", soft_wrap=True)
    else:
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


def accuracy_table(run):
    """How often a reward model ranks pairs right, before and after training, in each domain, as a rich table."""
    from rich.table import Table

    held_out = run.held_out()
    lines = held_out or run.metrics()
    table = Table("accuracy", *(("before", "after") if held_out else ("first step", "last step")))
    for name in (name for name in lines[-1] if name.split("/")[0] == "accuracy"):
        shares = (f"{line[name]:.0%}" if name in line else "" for line in (lines[0], lines[-1]))
        table.add_row(name.partition("/")[2] or ("held-out pairs" if held_out else "pairs"), *shares)
    return table
