"""What a run leaves when it ends, however it ends: how it did, and its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xtune.run import state
from xtune.run.directory import Run
from xtune.run.report import write_report
from xtune.terminal import messages
from xtune.training.stopping import Stopped


@contextmanager
def recorded(run: Run, facts: dict[str, Any]) -> Iterator[None]:
    """Within, the run trains. Its state is kept, and at the end its report is written.

    facts   see `xtune.run.state.begin`
    """
    state.begin(run, **facts)
    try:
        yield
    except Stopped as error:
        _leave(run, "stopped", str(error))
        raise
    except BaseException as error:
        _leave(run, "failed", str(error) or type(error).__name__)
        raise
    _leave(run, "finished")


def _leave(run: Run, how: str, why: str | None = None) -> None:
    """Neither may make a run fail that has its result, or hide why another one failed."""
    try:
        state.end(run, how, why)
        write_report(run, how)
    except Exception as error:
        messages().print(f"report   not written: {error}", soft_wrap=True, markup=False)
