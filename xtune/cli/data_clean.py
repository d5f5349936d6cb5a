"""`xtune data clean`: remove duplicates and what is not worth learning."""

from __future__ import annotations

import click

from xtune.cli.command import Command

_SHARE = click.FloatRange(0, 1, min_open=True)


@click.command(
    cls=Command,
    epilog="Example: xtune data clean my_data.jsonl clean.jsonl --languages en,zh --removed removed.jsonl",
)
@click.argument("source")
@click.argument("out", type=click.Path())
@click.option("--exact/--no-exact", default=True, help="Remove exact duplicates. On.")
@click.option("--near/--no-near", default=True, help="Remove near duplicates. On.")
@click.option("--threshold", type=_SHARE, default=0.7, metavar="X", help="From which Jaccard index on: 0.7.")
@click.option("--rules/--no-rules", default=True, help="Remove answers by the next four numbers. On.")
@click.option(
    "--min-chars", type=click.IntRange(0), default=1, metavar="N", help="Shortest answer: 1 character."
)
@click.option("--max-chars", type=click.IntRange(1), metavar="N", help="Longest answer: any.")
@click.option("--max-symbols", type=_SHARE, default=0.9, metavar="X", help="Share of symbols: at most 0.9.")
@click.option(
    "--max-repetition", type=_SHARE, default=0.75, metavar="X", help="Share of repetition: at most 0.75."
)
@click.option("--boilerplate", is_flag=True, help="Remove refusals, “as an AI model”, notices of web pages.")
@click.option("--languages", metavar="en,zh", default="", help="Keep only these languages.")
@click.option("--against", metavar="HELD_OUT", help="Remove what shares a passage with this file.")
@click.option(
    "--ngram", type=click.IntRange(1), default=13, metavar="N", help="Words that make a passage: 13."
)
@click.option(
    "--removed", type=click.Path(), metavar="FILE", help="Write the removed rows there, with the reason."
)
@click.option("--format", default="auto", metavar="NAME", help="How the rows of a data file are laid out.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def clean(source, out, languages, removed, format, force, as_json, **options):
    """Remove duplicates and what is not worth learning from SOURCE (a recipe, a data file or directory).

    The rows that stay go to the new file OUT as they are, one a line, and the report to OUT.report.json. Each row is
    named there that is removed, with the reason.
    """
    import json
    from pathlib import Path

    from xtune.data.clean import Options
    from xtune.data.clean import clean as clean_data
    from xtune.recipe.load import load_recipe
    from xtune.recipe.schema import Source
    from xtune.terminal import tracked

    chosen = Options(
        languages=tuple(code.strip() for code in languages.split(",") if code.strip()), **options
    )
    if source.endswith(".py"):
        data = load_recipe(source).data
        sources, actions = data.sources, data.defects.model_dump()
    else:
        sources, actions = [Source(path=source, format=format)], None
    report = clean_data(
        sources,
        Path(out),
        chosen,
        removed=Path(removed) if removed else None,
        force=force,
        actions=actions,
        progress=tracked,
    )
    click.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) if as_json else report)
