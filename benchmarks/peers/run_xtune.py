"""xtune's turn, from a recipe as a user would write it; or, with the setting `prepare`, the samples for its peers."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from driving import Record, Task, read_task, report


def recipe(task: Task):
    """The recipe of the task, changed as its settings say: dotted names to values."""
    from xtune.recipe.schema import Recipe

    content = {
        "model": {"path": task.model},
        "method": {"kind": "lora", "rank": task.rank, "alpha": task.alpha},
        "data": {"sources": [{"path": task.data}], "max_length": task.max_length},
        "train": {
            "steps": task.steps,
            "batch_size": task.batch_size,
            "lr": task.lr,
            "schedule": "constant",
            "warmup": 0,
            "seed": task.seed,
            "checkpoint_every": task.steps,
        },
    }
    for name, value in task.settings.items():
        section, option = name.split(".")
        content[section][option] = value
    return Recipe.model_validate(content)


def prepare(task: Task) -> None:
    """Write the encoded samples of all steps, in the plan's order."""
    from xtune.training.train import prepare

    preparation = prepare(recipe(task))
    with open(task.rows, "w") as file:
        for number in (number for step in range(task.steps) for number in preparation.plan.step(step)):
            sample = preparation.dataset[number]
            labels = [-100, *sample.labels.tolist()[1:]]
            file.write(json.dumps({"input_ids": sample.input_ids.tolist(), "labels": labels}) + "\n")


def watch(metrics: Path, record: Record, steps: int) -> None:
    """Note when each step's line is written: the clock sits outside of the engine."""
    while len(record.ends) < steps:
        time.sleep(0.01)
        if metrics.exists():
            lines = metrics.read_bytes().count(b"\n")
            record.ends += [time.time()] * (lines - len(record.ends))


def main() -> None:
    task = read_task()
    if task.settings.pop("prepare", False):
        prepare(task)
        print(json.dumps({"rows": task.rows}))
        return
    import xtune

    if not task.settings.pop("kernels_in_c", True):
        from xtune.kernels import native

        native.library = lambda: None
    record, run_dir = Record(), Path(task.work) / "run"
    threading.Thread(target=watch, args=(run_dir / "metrics.jsonl", record, task.steps), daemon=True).start()
    lines = xtune.train(recipe(task), run_dir=run_dir).metrics()
    record.losses = [line["loss"] for line in lines]
    report(task, record, [line["tokens"] for line in lines])


if __name__ == "__main__":
    main()
