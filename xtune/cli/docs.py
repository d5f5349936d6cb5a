"""`xtune docs`: the documentation, which comes along."""

from __future__ import annotations

import sys

import click

from xtune.cli.command import Command


@click.command(cls=Command, epilog="Example: xtune docs data")
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """Show PAGE of the documentation, or list the pages."""
    from xtune.pages import pages, read_page

    if page is None:
        titles = pages()
        width = max(map(len, titles))
        for name, title in titles.items():
            click.echo(f"{name:{width}}  {title}")
        return
    text = read_page(page)
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    with console.pager(styles=True):
        console.print(Markdown(text), width=min(100, console.width))
