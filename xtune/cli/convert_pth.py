"""`xtune convert pth`: what XTuner 0.1 trained, to go on with."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command(
    cls=Command,
    epilog="Example: xtune convert pth work_dirs/my-run/iter_500.pth my-adapter --base internlm2-7b",
)
@click.argument("checkpoint", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--config", metavar="OLD.py", help="The run's config, where the checkpoint does not hold it.")
@click.option("--base", metavar="DIR", help="The base model, where it is not where the config says.")
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="LoRA's alpha, where no config tells.")
@click.option(
    "--template", metavar="NAME", help="The chat template, where no config tells, or one unknown here."
)
def pth(checkpoint, out, config, base, alpha, template):
    """Write a CHECKPOINT of XTuner 0.1 (iter_500.pth, a file or a DeepSpeed directory) in the new directory OUT.

    A LoRA run's becomes an adapter, a full fine-tune's a model in its base's layout. What is read of the run's
    config, LoRA's alpha and the base model, is in the checkpoint too, as a rule.
    """
    from xtune.convert.pth import convert_pth
    from xtune.terminal import messages, quiet_libraries

    quiet_libraries()
    done = convert_pth(checkpoint, out, config=config, base=base, alpha=alpha, template=template)
    rank = f", rank {done.rank}" if done.rank else ""
    click.echo(f"wrote    {done.path} ({done.kind}, {done.tensors} tensors{rank})")
    click.echo(f"base     {done.base}")
    click.echo(f"template {done.template}")
    if done.trained_with:
        note = f"note: it was trained with XTuner's template {done.trained_with}, which is not here: answers may suffer"
        messages().print(note, markup=False, soft_wrap=True)
    for part, number in done.left_out.items():
        messages().print(f"left out {part} ({number} tensors)", markup=False)
