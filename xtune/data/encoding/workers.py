"""Encodes chunks of records in several processes, in order.

Processes are started as `python -m xtune.data.encoding.worker` and talk through pipes: neither a fork of a process
with threads, nor multiprocessing's, which would run a user's script again in each.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from xtune.data.encoding.encode_records import Chunk, Work, encode_records
from xtune.data.files import Record
from xtune.errors import ResourceError

CHUNK = 500  # records: little to hold in memory, much for one call
_MOST = 16
BUFFER = 1 << 20  # bytes: a chunk, in one go

T = TypeVar("T")


def encode_in_chunks(records: Iterable[Record], work: Work, workers: Workers | None) -> Iterator[Chunk]:
    """The records encoded, chunk by chunk in order, by the workers or, where there are none, here.

    Raises as encode_records does, and ResourceError where a process was killed.
    """
    chunks = _chunks(records, CHUNK)
    return workers.encode(chunks, work) if workers else (encode_records(chunk, work) for chunk in chunks)


class Workers:
    """Processes that encode, one a core."""

    def __init__(self) -> None:
        self._workers = [_Worker() for _ in range(min(_MOST, _cores()))]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_) -> None:
        for worker in self._workers:
            worker.end()

    def encode(self, chunks: Iterable[list[Record]], work: Work) -> Iterator[Chunk]:
        """The chunks encoded, in order."""
        packed = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
        free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in self._workers:
            worker.work = packed
            free.put(worker)

        def encode(chunk: list[Record]) -> Chunk:
            worker = free.get()
            try:
                return worker.encode(chunk)
            finally:
                free.put(worker)

        # The threads only wait for the pipes. A few chunks are read ahead, so that nobody waits for the file.
        with ThreadPoolExecutor(len(self._workers)) as threads:
            ahead: deque[Future[Chunk]] = deque()
            try:
                for chunk in chunks:
                    ahead.append(threads.submit(encode, chunk))
                    if len(ahead) > 2 * len(self._workers):
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()


class _Worker:
    """A process that encodes chunks."""

    def __init__(self) -> None:
        package = str(Path(__file__).parents[3])
        paths = filter(None, (package, os.environ.get("PYTHONPATH")))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "TOKENIZERS_PARALLELISM": "false",  # one thread each
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xtune.data.encoding.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=BUFFER,
            pipesize=BUFFER,
        )
        self.work = b""  # what it is to know before the next chunk

    def encode(self, chunk: list[Record]) -> Chunk:
        """encode_records there."""
        try:
            self._process.stdin.write(self.work)  # here, where it may wait for the process to start
            self.work = b""
            pickle.dump(chunk, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            result = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise ResourceError(
                f"A process that encodes data ended (exit code {self._process.wait()}).",
                fix="Likely memory ran out: close other programs, and run the command again.",
            ) from None
        if isinstance(result, BaseException):
            raise result
        return result

    def end(self) -> None:
        """Stop the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # of what was not sent any more
                pipe.close()


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1
