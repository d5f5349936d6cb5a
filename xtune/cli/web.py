"""`xtune web`: chat in a browser, and compare base and tuned."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command(cls=Command, epilog="Example: xtune web runs/my-run")
@click.argument("target")
@click.option("--compare", metavar="MODEL", help="Answer with this too. Default: the base of an adapter.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option(
    "--bits", type=click.Choice(["4", "8", "16"]), help="Of the weights. Default: as the adapter was trained."
)
def web(target, compare, port, bits):
    """Open a page to chat with TARGET: a run, an adapter, a model directory, or smollm2.

    The page is on this machine alone; other programs may use the model at the same address, as of xtune serve.
    """
    from xtune.serve.server import serve

    serve([target], port=port, bits=bits and int(bits), compare=compare, page=True)
