"""The user's terminal: where messages go, and keeping other libraries' chatter out of it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def messages() -> Console:
    """What a person reads while something runs goes to stderr, so that stdout can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def quiet_libraries() -> None:
    """Silence what is no news to the user: other libraries' progress bars and hints. Warnings stay."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # Said by transformers of its own renamed attributes, which it and peft still use themselves.
    warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing` is deprecated", FutureWarning)
