"""`xtune train --nproc N`: the same command in N processes of this machine, until all are done or one fails.

What fails is told once. The launcher itself loads no torch.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from xtune.errors import ResourceError, UserError
from xtune.training.group import ERROR_FILE, LAUNCHER, LOOPBACK, on_loopback, way_on
from xtune.training.stopping import AGAIN, SIGNALS, Stopped

_FAREWELL = 5.0  # seconds that the others get to end by themselves, and to say what they know
_POLL = 0.1


def launch(arguments: Sequence[str], processes: int, run: Path) -> None:
    """`xtune train ARGUMENTS` in each of so many processes, which write to the directory `run`.

    Only rank 0 has the terminal. If one fails the others are ended, and its error is raised, whose cause is what it
    wrote; that is kept in RUN/ranks, too. Signals are passed on to all, which save and end; a second one ends them at
    once.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="xtune-"))
        started: list[subprocess.Popen] = []
        stack.callback(_end, started)
        stack.enter_context(_passing_signals_on(started, run, processes))
        port = _free_port()
        for rank in range(processes):
            output = None
            if rank:
                output = stack.enter_context(open(Path(folder) / f"rank{rank}.log", "wb"))
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "xtune", "train", *arguments],
                    env=_environment(rank, processes, port, Path(folder)),
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C reaches them through the launcher, once
                )
            )
        _wait(started)
        if any(process.returncode for process in started):
            _wait_for_all(started, _FAREWELL)
            ended = [process.poll() for process in started]
            _end(started)
            raise _why(ended, Path(folder), run)


@contextmanager
def _passing_signals_on(started: Sequence[subprocess.Popen], run: Path, processes: int) -> Iterator[None]:
    """Within, the processes get the first signal to end; a second one raises Stopped."""
    first = 0.0

    def pass_on(number: int, _) -> None:
        nonlocal first
        if first and time.monotonic() - first > AGAIN:
            raise _stopped(number, run, processes)
        for process in () if first else started:
            process.send_signal(number)
        first = first or time.monotonic()

    handlers = {each: signal.getsignal(each) for each in SIGNALS}
    before = {each: handler for each, handler in handlers.items() if handler != signal.SIG_IGN}  # as by nohup
    for each in before:
        signal.signal(each, pass_on)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _environment(rank: int, processes: int, port: int, folder: Path) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        **on_loopback(),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        LAUNCHER: str(os.getpid()),
        ERROR_FILE: str(folder / f"rank{rank}.json"),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        return listener.getsockname()[1]


def _wait(started: Sequence[subprocess.Popen]) -> None:
    """Until all are done or one has failed."""
    while None in (codes := [process.poll() for process in started]) and not any(codes):
        time.sleep(_POLL)


def _wait_for_all(started: Sequence[subprocess.Popen], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in started) and time.monotonic() < deadline:
        time.sleep(_POLL)


def _end(started: Sequence[subprocess.Popen]) -> None:
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


def _why(ended: Sequence[int | None], folder: Path, run: Path) -> BaseException:
    """The error of the process that failed first, and what it wrote: others fail because it is gone. `ended`: exit
    codes by rank."""
    if stopped := [number for number in SIGNALS if number + 128 in ended or -number in ended]:
        return _stopped(stopped[0], run, len(ended))
    told = {
        rank: json.loads(file.read_text(encoding="utf-8"))
        for rank in range(len(ended))
        if (file := folder / f"rank{rank}.json").is_file()
    }
    output = {
        rank: _text(folder / f"rank{rank}.log") + told.get(rank, {}).get("traceback", "")
        for rank in range(len(ended))
    }
    if run.is_dir():
        with suppress(OSError):  # of a full disk there is something else to tell
            _keep(output, run / "ranks")
    by_user = [rank for rank, about in told.items() if not about["lost"] and about["code"] != 1]
    silent = [rank for rank, code in enumerate(ended) if code and rank not in told]
    if by_user or not silent:
        rank = (by_user or sorted(told, key=lambda rank: told[rank]["lost"]))[0]
        error = _error(told[rank], run)
    else:
        rank, code = silent[0], ended[silent[0]]
        error = ResourceError(
            f"Rank {rank} of {len(ended)} {_end_of(code)}.",
            where=_last_line(output[rank]),
            fix=way_on(run, len(ended)) if run.is_dir() else None,
        )
    error.__cause__ = _Output(f"\n{output[rank]}")
    return error


def _stopped(number: int, run: Path, processes: int) -> Stopped:
    return Stopped(number, f"Continue with: {way_on(run, processes)}" if run.is_dir() else "")


class _Output(Exception):
    """What a process wrote that failed, with its traceback: `--debug` shows it as the cause of the launcher's error."""


def _end_of(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    hint = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return f"was killed ({signal.Signals(-code).name}){hint}"


def _error(about: dict, run: Path) -> Exception:
    if about["code"] == 1:
        return RuntimeError(f"{about['text']} (see {run / 'ranks'})" if run.is_dir() else about["text"])
    error = UserError(about["text"])
    error.exit_code = about["code"]
    return error


def _keep(output: dict[int, str], ranks: Path) -> None:
    ranks.mkdir(exist_ok=True)
    for rank, text in output.items():
        if text:
            (ranks / f"rank{rank}.log").write_text(text, encoding="utf-8")


def _last_line(text: str) -> str | None:
    return next((line for line in reversed(text.split("\n")) if line.strip()), None)


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
