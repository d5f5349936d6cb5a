"""The command `xtune`: finds the subcommand, and turns what goes wrong into a message and an exit code.

Exit codes: 0 done, 1 a bug in xtune, 2 wrong usage or recipe, 3 data, 4 resources, 128 + n ended by signal n
(130: Ctrl-C, 143: SIGTERM).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from xtune.cli.command import Group, LazyCommand
from xtune.errors import ResourceError, UserError

# What each imports is loaded only when it is called: the list must not cost the seconds that torch takes.
COMMANDS = {
    "train": ("xtune.cli.train:train", "Train a model by a recipe."),
    "estimate": (
        "xtune.cli.estimate:estimate",
        "Say what a recipe takes of memory and time, before it runs.",
    ),
    "runs": ("xtune.cli.runs:runs", "List runs, compare them, and write their reports."),
    "chat": ("xtune.cli.chat:chat", "Talk to a model or to what a run made of it."),
    "eval": (
        "xtune.cli.eval:evaluate",
        "Measure a model on your data or on tasks, before and after training.",
    ),
    "serve": ("xtune.cli.serve:serve", "Answer over HTTP, as OpenAI's API does."),
    "web": ("xtune.cli.web:web", "Chat in a browser, and compare base and tuned."),
    "inspect": ("xtune.cli.inspect:inspect", "Say what a model is, and whether it is whole."),
    "convert": ("xtune.cli.convert:convert", "Turn a run into a model that other programs load."),
    "data": ("xtune.cli.data:data", "Check, show and clean training data."),
    "recipes": ("xtune.cli.recipes:recipes", "List, show and copy the recipes that come with xtune."),
    "docs": ("xtune.cli.docs:docs", "Read xtune's documentation here."),
    "completion": ("xtune.cli.completion:completion", "Let the Tab key complete xtune's commands."),
    "doctor": (
        "xtune.cli.doctor:doctor",
        "Say what this machine has and lacks, or why a run came out badly.",
    ),
}


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        import xtune

        click.echo(f"xtune {xtune.__version__}")
        context.exit()


@click.group(
    cls=Group,
    epilog="Example: xtune train smollm2_lora --run-dir my-run, then xtune chat my-run",
    commands={name: LazyCommand(name, *rest) for name, rest in COMMANDS.items()},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--debug", is_flag=True, expose_value=False, help="Show Python tracebacks of errors.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Fine-tune language models: a short recipe binds a model, a method and your data."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    args = list(sys.argv[1:] if args is None else args)
    end = args.index("--") if "--" in args else len(args)
    debug = "--debug" in args[:end]
    args = [a for a in args[:end] if a != "--debug"] + args[end:]  # so that it may stand anywhere
    try:
        code = cli.main(args, prog_name="xtune", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt) as error:
        error = error.__cause__ or error  # click makes an Abort of what it sees
        _say(str(error) or "interrupted")
        code = getattr(error, "exit_code", 130)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except BrokenPipeError:
        code = 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        code = _report(error)
    sys.exit(code if isinstance(code, int) else 0)


def _report(error: Exception) -> int:
    if isinstance(error, UserError):
        _say(f"error: {error}")
        if error.page:
            _say(f"  more:  xtune docs {error.page}")
        return error.exit_code
    from xtune.home import is_disk_full

    if is_disk_full(error):
        where = f"\n  where: {error.filename}" if getattr(error, "filename", None) else ""
        _say(f"error: The disk is full.{where}\n  fix:   Free some space and repeat the command.")
        return ResourceError.exit_code
    _say(f"internal error: {type(error).__name__}: {error}")
    _say("This is a bug in xtune. Please run the command again with --debug and report what it prints.")
    return 1


def _say(text: str) -> None:
    click.echo(text, err=True)
