"""What the processes of a run do together: find each other, agree before they train, and end when one of them fails.

Of a failure one process tells: the one that failed, with its rank. The others leave with LostProcess, which is told
only where nobody knows more.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from xtune.errors import ResourceError, UsageError, UserError
from xtune.home import is_disk_full, write_whole
from xtune.ranks import local_rank, name_as_torchrun, rank, ranks
from xtune.training.heartbeat import SILENCE, heartbeats

if TYPE_CHECKING:
    from torch.distributed import TCPStore

JOINING = timedelta(minutes=5)
WORKING = timedelta(hours=1)
"""How long a process waits for others: to start, and in training."""

ERROR_FILE = "XTUNE_ERROR_FILE"
"""Environment variable: where a process that xtune's own launcher started writes why it failed."""

LAUNCHER = "XTUNE_LAUNCHER"
"""Environment variable: the launcher's process id."""


LOOPBACK = "127.0.0.1"


class LostProcess(ResourceError):
    """Another process of the run has failed or died, of which that one or the launcher tells."""

    of_full_disk = False


@contextmanager
def joined(alone: bool = False) -> Iterator[None]:
    """Within, the processes of this run can talk to each other, over NCCL and gloo, or gloo on CPUs.

    alone   make a group even of a single process, as DeepSpeed and FSDP want one
    """
    name_as_torchrun()
    if ranks() == 1:
        with _group_of_one() if alone else nullcontext():
            yield
        return
    from torch import distributed

    _make_group()
    # The others wait while process 0 answers probes and writes the result.
    distributed.distributed_c10d._set_pg_timeout(WORKING, distributed.group.WORLD)
    with heartbeats(_give_up):
        yield
        # Left to the interpreter's end, the threads of gloo may find the others gone, and abort.
        gathered(None)
    distributed.destroy_process_group()


@contextmanager
def _group_of_one() -> Iterator[None]:
    """What DeepSpeed and FSDP want even of a single process, which may train without them afterwards, and with them
    again: only the group stays, of which DeepSpeed keeps hold."""
    import torch
    from torch import distributed
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    ours = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": LOOPBACK, "MASTER_PORT": "0"}
    ours |= {name: os.environ.get(name, value) for name, value in on_loopback().items()}
    ours |= {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # else accelerate chooses
    before = dict(os.environ)
    os.environ.update(ours)
    try:
        if not distributed.is_initialized():
            _make_group()
            atexit.register(distributed.destroy_process_group)  # else NCCL complains
        yield
    finally:
        unset_hf_deepspeed_config()
        theirs = [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]
        for name in (*ours, *theirs):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _make_group() -> None:
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        if local_rank() >= torch.cuda.device_count():
            raise UsageError(
                f"Process {local_rank()} of this machine finds {torch.cuda.device_count()} GPUs: each needs one.",
                where="--nproc",
                fix="Start as many processes as there are GPUs.",
            )
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    _check_interface()
    try:
        store = _store_on_loopback()
        meeting = {"store": store, "rank": rank(), "world_size": ranks()} if store else {}
        distributed.init_process_group(backend, timeout=JOINING, **meeting)
    except (RuntimeError, OSError) as error:
        raise _not_joined(error) from error


def on_loopback() -> dict[str, str]:
    """Environment variables by which processes of one machine talk over its loopback, where nobody else can."""
    names = [name for _, name in socket.if_nameindex() if name.startswith("lo")][:1]
    return {f"{library}_SOCKET_IFNAME": name for library in ("GLOO", "NCCL") for name in names}


def _store_on_loopback() -> TCPStore | None:
    """Where the processes of one machine meet; None: elsewhere. torch's own listens to the whole network."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if address != LOOPBACK or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun's
        return None
    if rank() > 0:
        return TCPStore(address, port, ranks(), is_master=False, timeout=JOINING)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        port, file = listener.getsockname()[1], listener.detach()
    return TCPStore(address, port, ranks(), is_master=True, timeout=JOINING, master_listen_fd=file)


def _check_interface() -> None:
    names = [name for _, name in socket.if_nameindex()]
    chosen = os.environ.get("GLOO_SOCKET_IFNAME", "")
    if missing := [name for name in chosen.split(",") if name and name not in names]:
        raise UsageError(
            f"This machine, {socket.gethostname()}, has no network interface {missing[0]}.",
            where="GLOO_SOCKET_IFNAME",
            fix=f"It has {', '.join(names)}. Where machines differ, set it on each.",
        )


def _not_joined(error: Exception) -> ResourceError:
    return ResourceError(
        f"The {ranks()} processes of this run did not find each other in {JOINING.seconds // 60} minutes: "
        + str(error).splitlines()[0],
        where=f"process {rank()} on {socket.gethostname()}, looking for process 0 at "
        f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
        fix="Another process may have said why. Else its machine cannot be reached there, or GLOO_SOCKET_IFNAME has "
        "to name the network interface.",
    )


def _give_up(other: int) -> None:
    """End this process, because another is silent; the first one that is left tells it."""
    error = LostProcess(
        f"Rank {other} of {ranks()} has not been heard of for {SILENCE:.0f} seconds: it hangs, or its machine is down "
        "or cut off.",
        fix=f"See to that machine, then go on with: {way_on()}",
    )
    if file := os.environ.get(ERROR_FILE):
        _write_error(Path(file), error, error.exit_code)
    elif rank() == (1 if other == 0 else 0):
        print(f"error: {error}", file=sys.stderr)
    _leave(error.exit_code)


@contextmanager
def together() -> Iterator[dict[str, str | None]]:
    """A block that succeeds in all processes or in none, and leaves all with the same facts.

    The dict it gives takes names and values, which are compared afterwards. Where the block fails, the first process
    that failed raises its error, and the others LostProcess. So it is where facts differ from process 0's.
    """
    facts: dict[str, str | None] = {}
    if ranks() == 1:
        yield facts
        return
    error = None
    try:
        yield facts
    except Exception as caught:
        error = caught
    everyone = gathered((facts, error and {"of_full_disk": is_disk_full(error)}))
    failed = [number for number, (_, failure) in enumerate(everyone) if failure]
    if failed and rank() == failed[0]:
        error.everywhere = len(failed) == ranks()
        raise error
    if failed:
        other = LostProcess(f"Rank {failed[0]} failed.")
        other.of_full_disk = everyone[failed[0]][1]["of_full_disk"]
        raise other
    for number, (theirs, _) in enumerate(everyone):
        if unlike := [name for name in facts if theirs.get(name) != everyone[0][0].get(name)]:
            if rank() != number:
                raise LostProcess(f"Rank {number} differs.")
            first = everyone[0][0]
            raise UsageError(
                "This process does not have the same as rank 0: "
                + "; ".join(f"{name} {theirs.get(name)}, not {first.get(name)}" for name in unlike),
                fix="All processes of a run need the same recipe, files and packages.",
            )


def gathered(mine: Any) -> list[Any]:
    """What all processes give, by rank. Small things only: they are pickled."""
    from torch import distributed

    if ranks() == 1:
        return [mine]
    everyone = [None] * ranks()
    try:
        distributed.all_gather_object(everyone, mine)
    except RuntimeError as error:
        raise (lost(error) or error) from error
    return everyone


def of_first(mine: Any) -> Any:
    """What process 0 gives, in all of them."""
    return gathered(mine if rank() == 0 else None)[0]


def has_launcher() -> bool:
    """Whether xtune's own launcher watches this process, and tells why it ends."""
    return ERROR_FILE in os.environ


def way_on(run: str | Path = "RUN", processes: int = 1) -> str:
    """The command that continues a run. `processes`: of xtune's own launcher, which its processes know."""
    if has_launcher():
        processes = ranks()
    return f"xtune train --resume {run}" + (f" --nproc {processes}" if processes > 1 else "")


def lost(error: Exception, run: str | Path = "RUN") -> LostProcess | None:
    """What to raise for an error that says that another process can no longer be reached; None for others."""
    from torch import distributed

    text = str(error)
    if ranks() == 1 or not isinstance(error, RuntimeError):
        return None
    if not isinstance(error, distributed.DistError) and not re.search("gloo|closed by peer|nccl", text, re.I):
        return None
    host = re.search(r"\[([\da-f.:]+)\]:\d+", text)
    dead = "by peer" in text  # as gloo says where a connection closes; other texts tell more
    return LostProcess(
        f"Another process of this run{f', on {host[1]},' if host else ''} failed or died"
        + ("." if dead else f": {text.splitlines()[0]}"),
        where=str(run),
        fix=f"What it said, or its launcher, tells why. Then: {way_on(run)}",
    )


@contextmanager
def reporting() -> Iterator[None]:
    """Around all that one of several processes does: it ends at once when it fails, and tells why once.

    What xtune's launcher started writes it into the launcher's file; else it is raised, and the command line prints
    it; a lost process is told of by rank 0 alone.
    """
    name_as_torchrun()
    if ranks() == 1:
        yield
        return
    file = os.environ.get(ERROR_FILE)
    if file and sys.platform == "linux":  # end with the launcher, however that ends
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[LAUNCHER]):  # it ended before that
            _leave(128 + signal.SIGKILL)
    try:
        yield
    except KeyboardInterrupt as error:
        if file or rank() != 0:
            _leave(getattr(error, "exit_code", 130))
        raise
    except Exception as error:
        code = error.exit_code if isinstance(error, UserError) else 1
        if code != 1 and not getattr(error, "everywhere", isinstance(error, LostProcess)):
            error.what = f"Rank {rank()} of {ranks()}: {error.what}"
        if file:
            _write_error(Path(file), error, code)
        if file or (isinstance(error, LostProcess) and rank() != 0):
            _leave(code)
        raise
    # Seen with ZeRO-3: a thread that C++ code left running aborts the process at the interpreter's end, its work done.
    _leave(0)


def _write_error(file: Path, error: Exception, code: int) -> None:
    known = isinstance(error, UserError)
    told = {
        "text": str(error) if known else f"Rank {rank()} of {ranks()}: {type(error).__name__}: {error}",
        "code": code,
        "lost": isinstance(error, LostProcess),
        "traceback": traceback.format_exc(),
    }
    write_whole(file, json.dumps(told))


def _leave(code: int) -> NoReturn:
    """At once: with the other processes gone, what Python does at its end may hang or abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
