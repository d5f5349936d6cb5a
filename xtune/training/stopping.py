"""Ctrl-C, SIGTERM and SIGHUP: a step that runs is finished and saved before the run stops; a second signal, a second
later, leaves at once. Where no step runs, as while the data is encoded or the result written, so does the first.

A thread sees the signals too: where the main one waits in C++ code, for a process that hangs or a GPU, Python calls no
handler.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xtune.ranks import ranks
from xtune.terminal import messages

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 1.0
"""Seconds until a signal is a second one: launchers pass on what a terminal has sent to all by itself."""
_FAREWELL = 5  # seconds that leaving may take


class Stopped(KeyboardInterrupt):
    """A signal ended the run."""

    def __init__(self, number: int, told: str = ""):
        super().__init__(f"Stopped by {signal.Signals(number).name}. {told}".rstrip())
        self.number, self.exit_code = number, 128 + number


_first = 0  # number of the signal that came first
_finishing = False  # whether a step runs


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, signals do as this module says. A program's own handlers stay, and what nohup ignores."""
    global _first, _finishing
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours = [number for number, handler in before.items() if handler in usual]
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    _first, _finishing = 0, False
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, ours), daemon=True)
    watcher.start()
    for number in ours:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watcher.join()
        os.close(reader)


def begin_step() -> None:
    """From here on the first signal waits for `end_step`."""
    global _finishing
    _finishing = True


def end_step(number: int) -> None:
    """What there is to lose has been saved. Raises Stopped for a signal of this number, or one that came meanwhile."""
    global _finishing
    _finishing = False
    if number := number or _first:
        raise Stopped(number)


def asked() -> int:
    """The number of the signal that this process has got, or 0."""
    return _first


def anyone_asked() -> int:
    """The same of any process of the run; all have to call it."""
    if ranks() == 1:
        return _first
    import torch
    from torch import distributed

    number = torch.tensor(_first)
    distributed.all_reduce(number, distributed.ReduceOp.MAX)
    return int(number)


def _handle(number: int, _) -> None:
    global _first
    if not _first:
        _first = number
        if not _finishing:
            raise Stopped(number)


def _watch(reader: int, ours: list[int]) -> None:
    first, at, leaving = 0, 0.0, 0
    while True:
        if not select.select([reader], [], [], 1.0 if first else None)[0]:
            leaving = 0 if _finishing else leaving + 1
            if leaving == _FAREWELL:
                _leave(first)
        elif not (seen := os.read(reader, 1)):
            return
        elif seen[0] in ours and not first:
            first, at = seen[0], time.monotonic()
            if _finishing:
                messages().print(
                    f"{signal.Signals(first).name}: this step is finished and saved first. A second one stops at once."
                )
        elif seen[0] in ours and time.monotonic() - at > AGAIN:
            _leave(seen[0])


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        messages().show_cursor()  # which a progress bar hides
    os._exit(128 + number)
