"""`xtune estimate`: what a recipe takes of memory, time and disk, before it runs."""

from __future__ import annotations

import re

import click

from xtune.cli.command import Command


class _Memory(click.ParamType):
    name = "memory"

    def convert(self, value, param, ctx):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:GB|GiB|G)?", str(value), re.IGNORECASE)
        if not found or float(found[1]) == 0:
            self.fail(f"{value!r} is no size of memory; write it as 24GB.", param, ctx)
        return float(found[1])


@click.command(
    cls=Command, epilog="Example: xtune estimate smollm2_lora --gpu 24GB --set data.max_length=1024"
)
@click.argument("recipe")
@click.option(
    "--gpu", type=_Memory(), metavar="SIZE", help="For a GPU with this memory, which need not be here."
)
@click.option(
    "--nproc", type=click.IntRange(min=1), default=1, metavar="N", help="For N processes, one for each GPU."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value, like train.lr=1e-4."
)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def estimate(recipe, gpu, nproc, overrides, as_json):
    """Say what RECIPE (a file, or a shipped recipe's name) takes of memory, time and disk, and what would make it fit.

    Reads the model's config.json, the headers of its weights and the data; loads no weights.
    """
    import json
    from dataclasses import asdict

    from xtune.recipe.load import load_recipe
    from xtune.recipe.overrides import parse_overrides

    loaded = load_recipe(recipe, parse_overrides(overrides))
    from xtune.training.estimate.estimate import a_gpu, this_device
    from xtune.training.estimate.estimate import estimate as estimate_recipe
    from xtune.training.estimate.show import lines

    device = a_gpu(loaded, gpu) if gpu else this_device(loaded)
    found = estimate_recipe(loaded, device, nproc)
    if as_json:
        content = asdict(found) | {"fits": found.fits}
        content["memory"] |= {"total": found.memory.total}
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(found)))
