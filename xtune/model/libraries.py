"""Importing transformers and peft without what only some of their functions need."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def import_libraries() -> None:
    """Import them. bitsandbytes and transformers have functions that torch compiles, for which it takes a second to
    prepare where they are defined; here that is put off to where one is called."""
    import torch

    compiled = torch.compile
    torch.compile = functools.partial(_when_called, compiled)
    try:
        import accelerate  # noqa: F401
        import peft  # noqa: F401
        import transformers.trainer  # noqa: F401
    finally:
        torch.compile = compiled


def _when_called(compiled: Callable, function: Callable | None = None, **options) -> Callable:
    """torch.compile, at the function's first call."""
    if function is None:
        return functools.partial(_when_called, compiled, **options)
    made = functools.cache(lambda: compiled(function, **options))

    @functools.wraps(function)
    def call(*args, **kwargs):
        return made()(*args, **kwargs)

    return call
