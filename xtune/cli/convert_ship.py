"""`xtune convert gguf`, `ollama`, `vllm`, `lmdeploy`, `opencompass`: models for the programs that run them."""

from __future__ import annotations

import click

from xtune.cli.command import Command

_BASE = click.option(
    "--base", metavar="DIR", help="The base of an adapter, where it is not where it was at training."
)


def _type(default: str):
    return click.option(
        "--type",
        type=click.Choice(["f16", "bf16", "q8_0", "f32"]),
        default=default,
        show_default=True,
        help="Of the weights.",
    )


@click.command(cls=Command, epilog="Example: xtune convert gguf runs/my-run my-model.gguf --type q8_0")
@click.argument("model")
@click.argument("out", type=click.Path())
@_type("f16")
@_BASE
def gguf(model, out, type, base):
    """Write MODEL (a model, an adapter, a run or a checkpoint) as the new GGUF file OUT, for llama.cpp and its kin.

    Tokenizer and chat template are inside. Of LLaMA, SmolLM2, InternLM 1 to 2.5, Baichuan 7B, Qwen 1 to 3, ChatGLM2
    and 3 and GLM-4, and of what else has their architecture.
    """
    from xtune.convert.gguf import convert_gguf
    from xtune.training.result import result_of

    with result_of(model) as result:
        done = convert_gguf(result, out, type, base=base)
    _print_gguf(done)
    click.echo(f"try it   llama-cli -m {done.path}")


def _print_gguf(done) -> None:
    click.echo(f"wrote    {done.path} ({done.architecture}, {done.type}, {done.size / 1e9:.2f} GB)")
    for note in done.notes:
        click.echo(f"note     {note}")


@click.command(cls=Command, epilog="Example: xtune convert ollama runs/my-run my-model")
@click.argument("model")
@click.argument("out", type=click.Path())
@_type("q8_0")
@_BASE
def ollama(model, out, type, base):
    """Write MODEL (a model, an adapter, a run or a checkpoint) for Ollama in the new directory OUT: model.gguf and a
    Modelfile with the chat format and the stop tokens."""
    from xtune.convert.ollama import convert_ollama
    from xtune.training.result import result_of

    with result_of(model) as result:
        done = convert_ollama(result, out, type, base=base)
    _print_gguf(done.gguf)
    if not done.template:
        click.echo(
            "note     Go's template language cannot say this chat format: the Modelfile has no TEMPLATE"
        )
    click.echo(f"next     {done.command}")


def _server(name: str, title: str):
    @click.command(name, cls=Command, epilog=f"Example: xtune convert {name} runs/my-run my-model")
    @click.argument("model")
    @click.argument("out", type=click.Path())
    @_BASE
    def command(model, out, base):
        from xtune.convert.deploy import convert_for_server
        from xtune.training.result import result_of

        with result_of(model) as result:
            line = convert_for_server(result, out, name, base=base)
        click.echo(f"wrote    {out}\nserve it {line}")

    command.help = (
        f"Write MODEL (a model, an adapter, a run or a checkpoint) for {title} in the new directory OUT, and print "
        "the command that serves it; README.md in OUT has it too."
    )
    return command


vllm = _server("vllm", "vLLM")
lmdeploy = _server("lmdeploy", "LMDeploy")


@click.command(cls=Command, epilog="Example: xtune convert opencompass my-model my_model.py")
@click.argument("model")
@click.argument("out", type=click.Path())
def opencompass(model, out):
    """Write the entry of MODEL, a whole model in Transformers' layout, for OpenCompass into the new file OUT."""
    from xtune.convert.opencompass import convert_opencompass

    path = convert_opencompass(model, out)
    click.echo(f"wrote    {path}\nnext     opencompass {path} --datasets gsm8k_gen")
