"""The user's terminal: where messages go, and keeping other libraries' chatter out of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from xtune.ranks import rank

if TYPE_CHECKING:
    from rich.console import Console


def messages() -> Console:
    """What a person reads while something runs goes to stderr, so that stdout can be piped. Of several processes
    only the first speaks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=rank() > 0)


@contextmanager
def counting(what: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how far something of unknown length has come: call what it gives with the count."""
    console = messages()
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(what) as status:
        yield lambda count: status.update(f"{what}: {count:,} {unit}")


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
