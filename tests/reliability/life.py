"""One life of a run that may be killed: `xtune …` in a process forked from one that has imported everything.

Process start costs seconds, most of them imports; a fork costs none of that. Killed are they for real: by SIGKILL.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod")
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.reliability.preloaded"])


@dataclass(frozen=True)
class Kill:
    """When a process is killed, by the first that comes.

    seconds    after its start
    event      at the so manieth change of a file whose path matches `path`
    path       a regular expression
    size       not at that event, but when a file then becomes larger than so many bytes: within a write
    """

    seconds: float | None = None
    event: int | None = None
    path: str = ""
    size: int | None = None


NEVER = Kill()


class Life:
    """Processes that run `xtune ARGUMENTS` in a folder, one for each kill. When one of them fails, the others get some
    seconds, as from xtune's launcher.

    constants     values of modules, by their whole names, that are other than usual
    environment   variables
    """

    def __init__(
        self,
        arguments: Sequence[Any],
        folder: Path,
        kills: Sequence[Kill] = (NEVER,),
        constants: dict[str, Any] | None = None,
        **environment: str,
    ):
        self.kills, self.log, self.changed = kills, folder / "life.log", folder / "changes.txt"
        for file in (self.log, self.changed):
            file.write_text("")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        common = dict(environment)
        if len(kills) > 1:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            common |= {"WORLD_SIZE": str(len(kills)), **address}
        self.processes = []
        for rank, kill in enumerate(kills):
            own = {**common, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if len(kills) > 1 else {})}
            target = (
                list(map(str, arguments)),
                str(folder),
                kill,
                constants or {},
                own,
                str(self.log),
                str(self.changed),
            )
            self.processes.append(_SERVER.Process(target=_live, args=target))
        for process in self.processes:
            process.start()  # the first one waits for the imports
        self.begun = time.monotonic()

    def end(self, seconds: float = 300) -> Life:
        """Wait for it."""
        failed = None
        while any(process.exitcode is None for process in self.processes):
            time.sleep(0.01)
            now = time.monotonic()
            if failed is None and any(process.exitcode for process in self.processes):
                failed = now
            for process, kill in zip(self.processes, self.kills, strict=True):
                due = kill.seconds is not None and now - self.begun > kill.seconds
                if due or (failed and now - failed > 5):
                    process.kill()
            self._check(now - self.begun < seconds)
        return self

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Until it holds, while the run lives."""
        while not condition():
            self._check(all(process.exitcode is None for process in self.processes))
            self._check(time.monotonic() - self.begun < 120)
            time.sleep(0.005)

    def _check(self, fine: bool) -> None:
        if not fine:
            for process in self.processes:  # which pytest would wait for
                process.kill()
            raise AssertionError(self.text)

    def signal(self, number: int, ranks: Sequence[int] | None = None) -> None:
        """Send a signal to some of the processes; default: to all."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            os.kill(self.processes[rank].pid, number)

    @property
    def text(self) -> str:
        """What they have written so far."""
        return self.log.read_text()

    @property
    def changes(self) -> list[str]:
        """The paths that they have changed."""
        return self.changed.read_text().splitlines()

    @property
    def codes(self) -> list[int | None]:
        """Exit codes."""
        return [process.exitcode for process in self.processes]

    @property
    def was_killed(self) -> bool:
        return any(code in (-signal.SIGKILL, -signal.SIGXFSZ) for code in self.codes)


def _live(arguments, folder, kill, constants, environment, log, changed):
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.chdir(folder)
    os.environ.update(environment)
    for name, value in constants.items():
        module, _, attribute = name.rpartition(".")
        setattr(import_module(module), attribute, value)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    _watch(kill, os.open(changed, os.O_WRONLY | os.O_APPEND))
    from xtune.cli.main import main

    main(arguments)


def _watch(kill: Kill, changed: int) -> None:
    """Kill this process at its event, and write the paths that it changes into a file."""
    matching = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal matching
        if event == "open":
            path, mode, flags = arguments
            writes = any(letter in mode for letter in "wax+") if mode else flags & (os.O_WRONLY | os.O_RDWR)
            if not writes:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        os.write(changed, f"{path}\n".encode())
        if kill.event is not None and re.search(kill.path, str(path)):
            matching += 1
            if matching == kill.event and kill.size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (kill.size, kill.size))
            elif matching == kill.event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
