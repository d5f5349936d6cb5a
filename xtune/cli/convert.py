"""`xtune convert`: turn a run into a model that other programs load."""

from __future__ import annotations

import click


@click.group()
def convert():
    """Turn a run into a model that other programs load."""


@convert.command(epilog="Example: xtune convert merge runs/my-run my-model")
@click.argument("run_or_adapter")
@click.argument("out", type=click.Path())
@click.option("--base", metavar="DIR", help="The base model, where it is not where it was at training.")
def merge(run_or_adapter, out, base):
    """Merge the adapter of RUN_OR_ADAPTER into its base model, in the new directory OUT.

    The result has the base's own number format and loads in stock Transformers. It is read back and compared
    with base and adapter side by side before OUT appears.
    """
    from xtune.convert.compare import ANSWER_TOKENS
    from xtune.convert.merge import merge as merge_adapter

    merged = merge_adapter(run_or_adapter, out, base=base)
    agreement = "all the same" if merged.same_answers == merged.prompts else f"{merged.same_answers} the same"
    click.echo(
        f"merged   {merged.path} ({merged.dtype}, {merged.size / 1e9:.2f} GB)\n"
        f"logits   differ by at most {merged.largest_logit_difference:.2g} from base + adapter"
        f" (the adapter moves them by up to {merged.adapter_effect:.2g})\n"
        f"answers  to {merged.prompts} prompts, {ANSWER_TOKENS} tokens each, greedy: {agreement}"
    )


@convert.command(epilog="Example: xtune convert export runs/my-run my-model --layout native")
@click.argument("model")
@click.argument("out", type=click.Path())
@click.option(
    "--layout", type=click.Choice(["original", "native"]), required=True, help="Which one to write."
)
@click.option(
    "--base", metavar="DIR", help="The base of an adapter; or the publisher's model to be laid out as."
)
def export(model, out, layout, base):
    """Write MODEL (a model, an adapter or a run) in the new directory OUT, laid out as its publisher did or as
    Transformers does.

    "original" comes with the publisher's config.json, code and tokenizer files; "native" needs no code.
    """
    from xtune.convert.export import export as export_model

    different = export_model(model, out, layout, base=base)
    click.echo(f"exported {out} ({layout} layout)")
    if different:
        click.echo(f"note     in Transformers it is not quite the same: {different}")


@convert.command(epilog="Example: xtune convert adapter their-adapter my-adapter --layout native")
@click.argument("adapter")
@click.argument("out", type=click.Path())
@click.option(
    "--layout", type=click.Choice(["original", "native"]), required=True, help="Whose names to give it."
)
@click.option("--base", metavar="DIR", help="The base model, where it is not where the adapter says.")
def adapter(adapter, out, layout, base):
    """Write the LoRA ADAPTER in the new directory OUT, with the layers' names of its base's publisher or those of
    Transformers.

    "native" is what xtune loads, and what an adapter has to become that was trained elsewhere on the
    publisher's code (wqkv, W_pack, query_key_value, c_attn); "original" loads beside that code with PEFT.
    """
    from xtune.convert.adapter import convert_adapter

    done = convert_adapter(adapter, out, base=base, layout=layout)
    click.echo(f"converted {done.path} ({done.layout} layout, {done.modules} layers, rank {done.rank})")
