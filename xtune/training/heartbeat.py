"""Whether the other processes of a run still live. One that dies is missed at once, since its connections close; but a
machine that loses power or its network closes nothing, and a process that hangs neither: the others would wait."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from xtune.ranks import rank, ranks

BEAT = 5.0
SILENCE = 45.0
"""Seconds between two heartbeats, and without any until a process is given up."""


@contextmanager
def heartbeats(give_up: Callable[[int], None]) -> Iterator[None]:
    """Within, process 0 and each of the others count in the store at MASTER_ADDR, and see each other do so.

    give_up   called, in a thread of its own, with the number of the process that is silent
    """
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(
        address, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=SILENCE)
    )
    heard = dict.fromkeys([0] if rank() else range(1, ranks()), time.monotonic())
    done = threading.Event()

    def beat() -> None:
        counts = dict.fromkeys(heard, 0)
        with suppress(RuntimeError):  # the store is gone: so is process 0, which will not be heard again
            while not done.is_set():
                store.add(f"xtune/{rank()}", 1)
                for other in heard:
                    if (count := store.add(f"xtune/{other}", 0)) != counts[other]:
                        counts[other], heard[other] = count, time.monotonic()
                done.wait(BEAT)

    def watch() -> None:  # apart from the beats, as a store that cannot be reached never answers
        while not done.wait(BEAT):
            silent = [other for other, at in heard.items() if time.monotonic() - at > SILENCE]
            if silent:
                give_up(silent[0])

    threads = [threading.Thread(target=target, daemon=True) for target in (beat, watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(timeout=1)
