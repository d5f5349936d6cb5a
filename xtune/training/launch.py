"""`xtune train --nproc N`: the same command in N processes of this machine, until all are done or one fails.

What fails is told once. The launcher itself loads no torch.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from xtune.errors import ResourceError, UserError
from xtune.terminal import messages
from xtune.training.group import ERROR_FILE

_FAREWELL = 5.0  # seconds that the others get to end by themselves, and to say what they know
_POLL = 0.1


def launch(arguments: Sequence[str], processes: int, run: Path) -> None:
    """`xtune train ARGUMENTS` in each of so many processes, which write to the directory `run`.

    Only rank 0 has the terminal. If one fails the others are ended, and its error is raised; what it wrote is kept
    in RUN/ranks. Ctrl-C ends all.
    """
    with tempfile.TemporaryDirectory(prefix="xtune-") as folder, ExitStack() as stack:
        started: list[subprocess.Popen] = []
        stack.callback(_end, started)
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
        try:
            _wait(started)
        except KeyboardInterrupt:
            for process in started:
                process.send_signal(signal.SIGINT)
            _wait_for_all(started, _FAREWELL)
            if run.is_dir():
                again = f"xtune train --resume {run} --nproc {processes}"
                messages().print(f"Stopped. Continue with: {again}", soft_wrap=True)
            raise
        if any(process.returncode for process in started):
            _wait_for_all(started, _FAREWELL)
            ended = [process.poll() for process in started]
            _end(started)
            raise _why(ended, Path(folder), run)


def _environment(rank: int, processes: int, port: int, folder: Path) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        ERROR_FILE: str(folder / f"rank{rank}.json"),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
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


def _why(ended: Sequence[int | None], folder: Path, run: Path) -> Exception:
    """The error of the process that failed first: others fail because it is gone. `ended`: exit codes by rank."""
    told = {
        rank: json.loads(file.read_text(encoding="utf-8"))
        for rank in range(len(ended))
        if (file := folder / f"rank{rank}.json").is_file()
    }
    if run.is_dir():
        with suppress(OSError):  # of a full disk there is something else to tell
            _keep_output(told, folder, run / "ranks")
    by_user = [about for about in told.values() if not about["lost"] and about["code"] != 1]
    silent = [rank for rank, code in enumerate(ended) if code and rank not in told]
    if by_user or not silent:
        return _error((by_user or sorted(told.values(), key=lambda about: about["lost"]))[0], run)
    (rank, *_), code = silent, ended[silent[0]]
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    hint = ", as the system does where memory runs out" if code == -signal.SIGKILL else ""
    return ResourceError(
        f"Rank {rank} of {len(ended)} {how}{hint}.",
        where=_last_line(folder / f"rank{rank}.log"),
        fix=f"xtune train --resume {run} --nproc {len(ended)}" if run.is_dir() else None,
    )


def _error(about: dict, run: Path) -> Exception:
    if about["code"] == 1:
        return RuntimeError(f"{about['text']} (see {run / 'ranks'})" if run.is_dir() else about["text"])
    error = UserError(about["text"])
    error.exit_code = about["code"]
    return error


def _keep_output(told: dict[int, dict], folder: Path, ranks: Path) -> None:
    ranks.mkdir(exist_ok=True)
    for rank, about in told.items():
        with open(folder / f"rank{rank}.log", "a", encoding="utf-8") as file:
            file.write(about["traceback"])
    for file in folder.glob("*.log"):
        shutil.copy(file, ranks)


def _last_line(log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    return next((line for line in reversed(lines) if line.strip()), None)
