"""A task of Slurm's srun finds the others as a process of torchrun does."""

import pytest

from xtune.ranks import name_as_torchrun

TASK = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}


def test_a_task_of_srun_is_named_as_torchrun_does():
    environment = dict(TASK)
    name_as_torchrun(environment)
    named = {name: value for name, value in environment.items() if name not in TASK}
    assert named == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "30067",
    }


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[3,5-7]", "gpu3"),
        ("a[01-02],b7", "a01"),
        ("rack[2-3]node[10-11]", "rack2node10"),
    ],
)
def test_the_first_node_of_a_list(nodes, first):
    environment = {**TASK, "SLURM_STEP_NODELIST": nodes}
    name_as_torchrun(environment)
    assert environment["MASTER_ADDR"] == first


@pytest.mark.parametrize("others", [{"RANK": "0"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_what_torchrun_started_or_is_alone_stays_as_it_is(others):
    environment = {**TASK, **others}
    name_as_torchrun(environment)
    assert environment == {**TASK, **others}


def test_a_batch_script_is_no_task():
    environment = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    name_as_torchrun(environment)
    assert "RANK" not in environment
