"""The user's terminal: where messages go, and keeping other libraries' chatter out of it."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from operator import length_hint
from typing import TYPE_CHECKING, Protocol, TypeVar

from xtune.ranks import rank

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Thing = TypeVar("Thing")


def messages() -> Console:
    """What a person reads while something runs goes to stderr, so that stdout can be piped. Of several processes
    only the first speaks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=rank() > 0)


class Advance(Protocol):
    """Says that work has come further by a number, and what to show of it besides."""

    def __call__(self, number: int, figures: str = "") -> None: ...


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """Shows on a terminal how far long work has come and, where its total is known, how much time is left; what it
    shows is gone when the work is done. Elsewhere nothing is shown. Within another's block, it is a line of its own.

    unit   what is counted: "steps", "records"; of "bytes" it shows 1.5 GB

    Gives advance(number, figures): call it after each part of the work.
    """
    global _shown
    console = messages()
    if console.quiet or not console.is_terminal:
        yield _nothing
        return
    outer = _shown
    bars = _shown = outer or _bars(console)
    task = bars.add_task(description, total=total, unit=unit, figures="")
    try:
        with nullcontext() if outer else bars:
            yield lambda number, figures="": bars.update(task, advance=number, figures=figures)
    finally:
        bars.remove_task(task)
        _shown = outer


def _nothing(number: int, figures: str = "") -> None:
    pass


_shown: Progress | None = None
"""What is on the terminal: rich shows one thing at a time."""

_EVERY = 0.1
"""Seconds between what is shown."""

_SPEED_OVER = 600.0
"""Seconds over which the speed is averaged: a step of training may take a minute."""


def _bars(console: Console) -> Progress:
    from rich.filesize import decimal
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Amount(ProgressColumn):
        """How much is done, of how much, and what else there is to tell."""

        def render(self, task) -> Text:
            unit = task.fields["unit"]
            shown = decimal if unit == "bytes" else "{:,.0f}".format
            parts = [shown(number) for number in (task.completed, task.total) if number is not None]
            text = "/".join(parts) + (f" {unit}" if unit != "bytes" else "")
            return Text(" · ".join([text, *filter(None, [task.fields["figures"]])]))

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Amount(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=False),
        console=console,
        transient=True,
        speed_estimate_period=_SPEED_OVER,
    )


def tracked(things: Iterable[Thing], description: str, unit: str = "records") -> Iterator[Thing]:
    """The same things, with progress shown while they are gone through."""
    with progress(description, length_hint(things) or None, unit) as advance:
        done, told = 0, time.monotonic()
        for thing in things:
            yield thing
            done += 1
            if time.monotonic() - told > _EVERY:  # telling takes longer than many a thing
                advance(done)
                done, told = 0, time.monotonic()


@contextmanager
def loading_shown(description: str) -> Iterator[None]:
    """Within, transformers' loading of weights shows its progress as ours."""
    from transformers.utils.logging import set_tqdm_hook

    def ours(factory, args, kwargs):
        if kwargs.get("desc") != "Loading weights":
            return factory(*args, **kwargs)
        return tracked(args[0], description, "tensors")

    before = set_tqdm_hook(ours)
    try:
        yield
    finally:
        set_tqdm_hook(before)


def quiet_libraries() -> None:
    """Silence what is no news to the user: other libraries' progress bars and hints. Warnings stay."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # bitsandbytes, imported by peft, names a package that would speed up 4-bit products on some CPUs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
        lambda record: "kernels-community" not in record.getMessage()
    )
    # DeepSpeed, imported by accelerate where it is installed, tells that there is no GPU.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
    # transformers tells of its own renamed attributes, which it and peft still use themselves.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_kwargs)?` is deprecated", FutureWarning)
    # GaLore's is a copy of what transformers once had.
    warnings.filterwarnings("ignore", "This implementation of AdamW is deprecated", FutureWarning)
    # accelerate and DeepSpeed call torch by names that are renamed.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
