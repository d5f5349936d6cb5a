"""`xtune chat`: talk to a model or to what a run made of it."""

from __future__ import annotations

import click


@click.command(epilog="Example: xtune chat runs/my-run --prompt 'Who are you?'")
@click.argument("run_or_model")
@click.option("--adapter", metavar="DIR", help="Put this adapter on the model.")
@click.option("--prompt", metavar="TEXT", help="Answer this and exit.")
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
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token each time; above, answers vary.",
)
def chat(run_or_model, adapter, prompt, system, max_new_tokens, temperature):
    """Talk to RUN_OR_MODEL: a run, an adapter, a model directory, or smollm2.

    In a terminal, /reset forgets the conversation, Ctrl-C stops an answer, /quit or Ctrl-D ends. From a pipe,
    each line is one turn of the conversation. Answers go to stdout, all else to stderr.
    """
    from xtune.chat.session import start

    start(
        run_or_model,
        adapter=adapter,
        prompt=prompt,
        system=system,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
    )
