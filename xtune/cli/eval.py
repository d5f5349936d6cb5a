"""`xtune eval`: measure a model on data and tasks, before and after training."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command("eval", cls=Command, epilog="Example: xtune eval runs/my-run --data test.jsonl")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option(
    "--data", multiple=True, metavar="FILE", help="Measure on the answers in this file; repeatable."
)
@click.option(
    "--format",
    default="auto",
    metavar="NAME",
    help="How the rows of --data are laid out: a name, file.py:function, or auto (default).",
)
@click.option(
    "--tasks",
    metavar="NAME,...",
    help="Measure on these tasks of lm-evaluation-harness, or on your own in .yaml files.",
)
@click.option("--include", metavar="DIR", help="A folder with tasks of your own, to be called by name.")
@click.option(
    "--shots", type=click.IntRange(min=0), metavar="N", help="Solved examples before each question."
)
@click.option("--plain", is_flag=True, help="Give tasks as plain text, not in the model's chat template.")
@click.option("--download", is_flag=True, help="Fetch the data of tasks from the hub where it is not here.")
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Take only the first N samples of each."
)
@click.option(
    "--bits", type=click.Choice(["4", "8", "16"]), help="Quantise the weights. Default: as trained."
)
@click.option("--out", metavar="FILE", help="Write the figures to a new FILE. Default: eval.json in the run.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(targets, data, format, tasks, include, shots, plain, download, limit, bits, out, as_json):
    """Measure TARGET: a run, an adapter, a model directory, or smollm2.

    An adapter is measured against its base; several TARGETs against each other. Without --data and --tasks a run is
    measured on the samples that it held out of its training.
    """
    import json

    from xtune.evaluate.evaluate import Wanted, evaluate

    names = [name for name in (tasks or "").split(",") if name]
    wanted = Wanted(data, format, names, include, shots, not plain, download, limit)
    evaluation = evaluate(targets, wanted, bits=int(bits) if bits else None, out=out)
    if as_json:
        click.echo(json.dumps(evaluation.to_dict(), indent=2, ensure_ascii=False))
    else:
        click.echo(evaluation.table())
