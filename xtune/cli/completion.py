"""`xtune completion`: a script by which a shell completes commands."""

from __future__ import annotations

import click

from xtune.cli.command import Command

_WHERE = {
    "bash": "xtune completion bash > ~/.local/share/bash-completion/completions/xtune",
    "zsh": 'xtune completion zsh > "${fpath[1]}/_xtune"',
    "fish": "xtune completion fish > ~/.config/fish/completions/xtune.fish",
}


@click.command(cls=Command, epilog=f"Example: {_WHERE['bash']}")
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes xtune's commands, options and recipes with the Tab key."""
    from click.shell_completion import get_completion_class

    from xtune.cli.main import cli

    click.echo(get_completion_class(shell)(cli, {}, "xtune", "_XTUNE_COMPLETE").source())
