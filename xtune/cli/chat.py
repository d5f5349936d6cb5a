"""`xtune chat`: talk to a model or to what a run made of it."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command(cls=Command, epilog="Example: xtune chat runs/my-run --prompt 'Who are you?'")
@click.argument("target")
@click.option("--adapter", metavar="DIR", help="Put this adapter on the model.")
@click.option(
    "--prompt", "prompts", metavar="TEXT", multiple=True, help="Answer this and exit; may be repeated."
)
@click.option("--system", metavar="TEXT", help="System prompt. Default: the template's own, if it has one.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Longest answer, in tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, max=100),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token each time; above, answers vary.",
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that have this probability together.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), help="Draw the same answers again.")
@click.option(
    "--bits",
    type=click.Choice(["4", "8", "16"]),
    help="Quantise the weights to 4 or 8 bits, or (16) not. Default: as the adapter was trained.",
)
@click.option(
    "--compare",
    metavar="[MODEL]",
    is_flag=False,
    flag_value="base",
    help="Let this model answer too, side by side. Without MODEL, after TARGET: the base of its adapter.",
)
@click.option(
    "--tools", metavar="LIST", help="What the model may call: python,calculator,FILE.py (its functions)."
)
@click.option("--yes", is_flag=True, help="Run the Python that the model writes without asking.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each turn.")
def chat(target, bits, temperature, top_p, max_new_tokens, seed, **options):
    """Talk to TARGET: a run, a checkpoint, an adapter, a model directory, a name on the hub, or smollm2.

    In a terminal, /help lists what you can do there. From a pipe, each line is one turn of the conversation.
    Answers go to stdout, all else to stderr.
    """
    from xtune.chat.conversation import Settings
    from xtune.chat.session import start
    from xtune.training.result import result_of

    settings = Settings(temperature, top_p, max_new_tokens, seed)
    with result_of(target) as path:
        start(path, settings=settings, bits=int(bits) if bits else None, **options)
