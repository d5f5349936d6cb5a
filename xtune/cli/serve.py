"""`xtune serve`: answer over HTTP, as OpenAI's API does."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command(cls=Command, epilog="Example: xtune serve runs/my-run")
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option(
    "--api-key", metavar="KEY", envvar="XTUNE_API_KEY", show_envvar=True, help="What requests have to bring."
)
@click.option(
    "--bits", type=click.Choice(["4", "8", "16"]), help="Of the weights. Default: as the adapter was trained."
)
def serve(targets, host, port, api_key, bits):
    """Answer over HTTP with TARGET: a run, an adapter, a model directory, or smollm2.

    With several, requests choose by their names: the last part of the path, or what stands in front: NAME=PATH.
    Adapters on the same base share it.
    """
    from xtune.serve.server import serve as run

    run(targets, host=host, port=port, api_key=api_key, bits=bits and int(bits))
