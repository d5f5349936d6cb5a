"""`xtune inspect`: say what a model is, and whether it is whole."""

from __future__ import annotations

import click

from xtune.cli.command import Command


@click.command(cls=Command, epilog="Example: xtune inspect internlm2_5-7b-chat")
@click.argument("model")
@click.option(
    "--family",
    default="auto",
    metavar="NAME",
    help="Take it for one of this family, or of that in a .py file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@click.pass_context
def inspect(context: click.Context, model, family, as_json):
    """Say what MODEL (a directory, an adapter, a run, a name) is, how it would be loaded, and what it lacks.

    Reads the headers of its files only. Exits with 2 where something is wrong.
    """
    import json
    from dataclasses import asdict

    from xtune.run.inspect import inspect as inspect_model

    seen = inspect_model(model, family=family)
    if as_json:
        content = asdict(seen)
        content["problems"] = [problem._asdict() for problem in seen.problems]
        click.echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for title, lines in _parts(seen):
            for number, line in enumerate(lines):
                click.echo(f"{title if not number else '':11} {line}")
    for problem in seen.problems:
        click.echo(f"problem: {problem}", err=True)
    if seen.problems:
        context.exit(2)


def _parts(seen):
    """(title, lines) of all that is known."""
    if seen.adapter:
        targets = seen.adapter["targets"]
        targets = ", ".join(targets) if isinstance(targets, list) else targets
        yield (
            "adapter",
            [
                f"{seen.adapter['path']} on the base below",
                f"rank {seen.adapter['rank']}, alpha {seen.adapter['alpha']}, on {targets}",
                f"trained with the template {seen.adapter['template']}",
            ],
        )
    yield "model", [seen.directory]
    reasons = ", ".join(
        f"no {name}" if value is None else f"{name} = {_short(value)}"
        for name, value in seen.recognised_by.items()
    )
    yield "family", [f"{seen.family} ({seen.title})", f"by {reasons}"]
    yield (
        "options",
        [
            f"model.{name} = {option['value']!r} ({'as set' if option['by'] == 'set' else 'by rule; can be set'})"
            for name, option in seen.options.items()
        ],
    )
    if seen.template:
        difference = seen.template["difference"]
        lines = f"the checkpoint's own writes something else: {difference}".splitlines() if difference else []
        yield "template", [f"{seen.template['name']} ({seen.template['why']})", *lines]
    if seen.tokenizer:
        special = seen.tokenizer["special"]
        yield (
            "tokenizer",
            [
                f"{seen.tokenizer['kind']}, {seen.tokenizer['vocabulary']:,} tokens",
                f"special: {' '.join(special[:12])}{' …' if len(special) > 12 else ''}",
                f"stops:   {' '.join(seen.tokenizer['stop'])}",
            ],
        )
    if seen.conversion:
        yield "layout", list(_conversion(seen.conversion))
    if seen.parameters:
        numbers = ", ".join(
            f"{value:,} {name.replace('_', '-')}" for name, value in seen.architecture.items()
        )
        yield "size", [f"{_words(seen.parameters, 'B')} parameters ({seen.parameters:,})", numbers]
    files = seen.weights["files"]
    if files:
        types = ", ".join(f"{share:.0%} {name}" for name, share in seen.weights["types"].items())
        named = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} …"
        yield "on disk", [f"{named}: {_words(seen.weights['bytes'])}B, {types}"]
    memory = ", ".join(f"{_words(size)}B in {name}" for name, size in seen.memory.items())
    yield "memory", [f"{memory} (weights only)"] if memory else []
    yield "note", seen.notes
    yield "health", ["whole: every tensor is there, in the right shape"] if not seen.problems else []


def _conversion(conversion):
    if "examples" not in conversion:
        yield f"transformers' own: {conversion['class']}"
        return
    yield f"{conversion['layout']}, loaded into {conversion['class']}"
    if conversion["stock"] is not True:
        yield f"differs from transformers' own class: {conversion['stock']}"
    counts = ", ".join(f"{conversion[kind]} {kind}" for kind in ("renamed", "split", "same", "ignored"))
    yield f"tensors: {counts}"
    for old, new in conversion["examples"].items():
        parts = [name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[2] for name in new]
        yield f"  {old} -> {', '.join(parts) if len(new) > 1 else new[0]}"


def _words(number: int, billion: str = "G") -> str:
    """7700000000 -> 7.7 G."""
    for size, letter in ((1e9, billion), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number} "


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
