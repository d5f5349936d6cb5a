"""`xtune convert`: turn a run into a model that other programs load."""

from __future__ import annotations

import click

from xtune.cli.command import Group, LazyCommand


@click.group(cls=Group, epilog="Example: xtune convert merge runs/my-run my-model")
def convert():
    """Turn a run into a model that other programs load."""


@convert.command(epilog="Example: xtune convert merge runs/my-run my-model")
@click.argument("run_or_adapter", nargs=-1, required=True)
@click.argument("out", type=click.Path())
@click.option("--base", metavar="DIR", help="The base model, where it is not where it was at training.")
@click.option(
    "--weight",
    "weights",
    type=float,
    multiple=True,
    help="Of an adapter in the sum, once for each, in their order; 1 unless given.",
)
@click.option(
    "--base-weights",
    type=click.Choice(["original", "nf4"]),
    default="original",
    show_default=True,
    help="What to merge into: the base's own weights, or the 4-bit ones that QLoRA trained beside.",
)
def merge(run_or_adapter, out, base, weights, base_weights):
    """Merge the adapter of RUN_OR_ADAPTER (or a checkpoint) into its base model, in the new directory OUT. Of several
    on one base, what each changes is added up.

    The result has the base's own layout and number format, and loads in stock Transformers (of a publisher's layout,
    where the base does). It is made one tensor at a time, read back and compared with base and adapter side by side
    before OUT appears. Of a reward model, it is one for AutoModelForSequenceClassification.
    """
    from contextlib import ExitStack

    from xtune.convert.merge import merge as merge_adapters
    from xtune.training.result import result_of

    with ExitStack() as stack:
        adapters = [stack.enter_context(result_of(path)) for path in run_or_adapter]
        merged = merge_adapters(adapters, out, base=base, weights=weights, base_weights=base_weights)
    into = "" if base_weights == "original" else f", into {base_weights} weights"
    click.echo(f"merged   {merged.path} ({merged.dtype}, {merged.size / 1e9:.2f} GB{into})")
    click.echo(merged.check)


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
    """Write MODEL (a model, an adapter, a run or a checkpoint) in the new directory OUT, laid out as its publisher
    did or as Transformers does.

    "original" comes with the publisher's config.json, code and tokenizer files; "native" needs no code.
    """
    from xtune.convert.export import export as export_model
    from xtune.training.result import result_of

    with result_of(model) as result:
        different = export_model(result, out, layout, base=base)
    click.echo(f"exported {out} ({layout} layout)")
    if different:
        click.echo(f"note     in Transformers it is not quite the same: {different}")


@convert.command(epilog="Example: xtune convert checkpoint runs/my-run/checkpoints/checkpoint-100 my-adapter")
@click.argument("checkpoint", type=click.Path())
@click.argument("out", type=click.Path())
def checkpoint(checkpoint, out):
    """Write the adapter or model of a run's CHECKPOINT in the new directory OUT, as the run leaves it at its end.

    However many processes wrote it, and whether DeepSpeed or FSDP had spread the weights.
    """
    import shutil
    from pathlib import Path

    from xtune.errors import UsageError
    from xtune.training.result import result_of

    if Path(out).exists():
        raise UsageError(f"{out} exists already.", where="OUT", fix="Name a new directory.")
    with result_of(checkpoint) as result:
        if result == checkpoint:
            raise UsageError(
                f"{checkpoint} is no checkpoint of a run.",
                fix="Name one like RUN/checkpoints/checkpoint-100.",
            )
        shutil.move(result, out)
    click.echo(f"wrote    {out}")


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


convert.add_command(
    LazyCommand(
        "pth", "xtune.cli.convert_pth:pth", "Turn a checkpoint of XTuner 0.1 into an adapter or a model."
    )
)

SHIPPING = {
    "gguf": "Write one GGUF file, for llama.cpp and its kin.",
    "ollama": "Write a GGUF file and a Modelfile, for Ollama.",
    "vllm": "Write a directory for vLLM, with the command that serves it.",
    "lmdeploy": "Write a directory for LMDeploy, with the command that serves it.",
    "opencompass": "Write a model's entry for OpenCompass.",
}
for name, help in SHIPPING.items():
    convert.add_command(LazyCommand(name, f"xtune.cli.convert_ship:{name}", help))
