"""Which of a run's processes this is. Its launcher says so in the environment: torchrun, deepspeed and
`xtune train --nproc` by RANK, LOCAL_RANK and WORLD_SIZE, Slurm's srun by names of its own."""

from __future__ import annotations

import os
import re
from collections.abc import MutableMapping

_PORT = 29500


def rank() -> int:
    """Number of this process among all of the run, from 0."""
    return int(os.environ.get("RANK", 0))


def ranks() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """Number of this process among those on this machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def name_as_torchrun(environment: MutableMapping[str, str] = os.environ) -> None:
    """Give a task that srun started the variables that torch reads. Does nothing elsewhere."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")  # of this srun; a batch script alone has none
    if "RANK" in environment or tasks == "1":
        return
    job = int(environment.get("SLURM_JOB_ID", 0))
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment["SLURM_LOCALID"]
    environment["WORLD_SIZE"] = tasks
    environment.setdefault("MASTER_ADDR", _first_node(environment["SLURM_STEP_NODELIST"]))
    environment.setdefault("MASTER_PORT", str(_PORT + job % 1000))  # so that two jobs on a node do not meet


def _first_node(nodes: str) -> str:
    """Of Slurm's short form: "gpu[07-09,12],login" is gpu07."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)[0])
