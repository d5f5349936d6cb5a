"""Steps that cannot be learnt from: of which loss or gradient norm is not finite, or exactly 0.

Those that are not finite are skipped, and their samples written aside; a few in a row stop the run. A loss that is not
finite makes its gradients so (`spoil_gradients`): their norm, which all processes have in common, decides for all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from xtune.data.dataset import Dataset
from xtune.errors import TrainingError
from xtune.home import write_whole
from xtune.model.fused import unfuse
from xtune.ranks import rank
from xtune.recipe.objective_schema import Pretrain, Sft
from xtune.run.directory import Run
from xtune.terminal import messages
from xtune.training.group import gathered, together, way_on
from xtune.training.out_of_memory import Passes

if TYPE_CHECKING:
    from xtune.recipe.objective_schema import Objective
    from xtune.training.trainer import ObjectiveTrainer

IN_A_ROW = 3
"""Skipped steps, or steps at 0, that stop a run."""


def spoil_gradients(loss: torch.Tensor) -> None:
    """Make the gradients of a loss NaN where it is not finite, as those of an infinite loss need not be."""
    factor = 1 + 0 * loss.detach()
    loss.register_hook(lambda gradient: gradient * factor)


class BadSteps:
    """Tells of bad steps and stops the run where there are too many. All processes of a run do the same.

    objective    what the recipe says of it
    has_learnt   whether any step was not at 0, as in a resumed run
    """

    def __init__(self, run: Run, objective: Objective, dataset: Dataset, passes: Passes, *, has_learnt: bool):
        self.run, self.objective, self.dataset, self.passes = run, objective, dataset, passes
        self.has_learnt = has_learnt
        self.skipped = self.zeros = 0  # in a row

    def told(
        self, step: int, logs: dict[str, Any], losses: Sequence[torch.Tensor], *, scaled: bool
    ) -> dict[str, Any]:
        """What to log of a step besides: the true loss and why it was skipped, if it was.

        step     its number, from 1
        losses   of this process's forward passes
        scaled   whether losses are scaled until gradients fit into float16, which takes some steps
        """
        if math.isfinite(logs["grad_norm"]):
            self.skipped = 0
            return {}
        everyones = gathered([float(loss) for loss in losses])
        loss = sum(map(sum, everyones)) / len(everyones)
        if scaled and math.isfinite(loss):
            return {"loss": loss}
        self.skipped += 1
        reason = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {logs['grad_norm']}"
        if rank() == 0:
            file = self.run.path / "bad_steps" / f"step-{step}.json"
            file.parent.mkdir(exist_ok=True)
            figures = {"step": step, "loss": str(loss), "grad_norm": str(logs["grad_norm"])}
            about = {**figures, "passes": list(self._passes(step, everyones))}
            write_whole(file, json.dumps(about, ensure_ascii=False) + "\n")
            messages().print(f"step {step} is skipped: {reason}; its samples: {file}", soft_wrap=True)
        return {"loss": loss, "skipped": reason}

    def _passes(self, step: int, losses: Sequence[Sequence[float]]) -> Iterator[dict[str, Any]]:
        """The forward passes of a step in order, with their part of the loss."""
        batches = self.passes.run.batches
        for number, samples in enumerate(self.passes.samples(step - 1)):
            done, process = divmod(number, self.passes.run.processes)
            yield {
                "loss": str(losses[process * batches.layout.processes][done]),
                "samples": [
                    {
                        "source": self.dataset.source(sample),
                        "texts": [
                            {"ids": text.input_ids.tolist(), "labels": text.labels.tolist()}
                            for text in batches.objective.texts(sample)
                        ],
                    }
                    for sample in samples
                ],
            }

    def stop_if_many(self, step: int, logs: dict[str, Any], trainer: ObjectiveTrainer) -> None:
        """Raise TrainingError where this step is the last of too many bad ones."""
        zero = self._zero(logs)
        self.zeros = self.zeros + 1 if zero else 0
        if self.skipped == IN_A_ROW:
            layer = first_wrong_layer(trainer, self.passes, step - 1)
            with together():  # so that one of the processes tells it
                raise TrainingError(
                    f"{IN_A_ROW} steps in a row have no finite loss or gradients, up to step {step}. {layer}",
                    where=str(self.run.path / "bad_steps"),
                    fix="See there what their samples have in common. Else a lower train.lr or a longer "
                    'train.warmup may help, and model.dtype = "float32" where it is float16. Then: '
                    f"{way_on(self.run.path)} --set train.lr=…",
                )
        if self.zeros == IN_A_ROW:
            with together():
                raise TrainingError(
                    f"The {zero} is exactly 0 in {IN_A_ROW} steps in a row, up to step {step}: nothing is learnt.",
                    where=str(self.run.path / "metrics.jsonl"),
                    fix=_CAUSES[zero],
                )

    def _zero(self, logs: dict[str, Any]) -> str | None:
        """Which of loss and gradient norm is 0 though it should not be."""
        figures = {"loss": logs["loss"], "gradient norm": logs["grad_norm"]}
        if "reward" in logs:
            # The loss of answers that are better and worse than each other adds up to 0; among equals, and where
            # those cut off are left out, there may be nothing to learn.
            del figures["loss"]
            if logs["reward_std"] == 0 or logs["truncated"] > 0:
                return None
        elif not isinstance(self.objective, Sft | Pretrain) and self.has_learnt:
            return None  # pairs that are told apart well enough
        zero = next((name for name, value in figures.items() if value == 0), None)
        self.has_learnt |= zero is None
        return zero


_CAUSES = {
    "loss": "Either the samples have no tokens left to learn (see `xtune data show`, and data.overlong), or the model "
    "has them by heart: then end earlier, with fewer epochs or a lower train.lr.",
    "gradient norm": "What is trained does not change the loss. Either method.targets and method.layers name what the "
    "outputs do not depend on, or the outputs are so far off that rounding leaves nothing: a lower train.lr, or "
    'model.dtype = "float32".',
}


def first_wrong_layer(trainer: ObjectiveTrainer, passes: Passes, step: int) -> str:
    """A sentence that names the layer from which the first values come that are not finite, in a step that is run once
    more, forward and backward. Its weights are changed, if at all, by DeepSpeed: this is for a run that ends.

    step   from 0
    """
    forward: list[str] = []
    losses: list[float] = []
    backward: list[str] = []

    def watch(name: str, output: Any) -> None:
        for tensor in _tensors(output):
            if not torch.isfinite(tensor).all():
                forward.append(name)
            elif tensor.requires_grad:
                tensor.register_hook(partial(look_back, name))

    def look_back(name: str, gradient: torch.Tensor) -> None:
        if not torch.isfinite(gradient).all():
            backward.append(name)

    unfuse(trainer.model)  # fused kernels do not call a module's parts
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: watch(name, output))
        for name, module in trainer.model.named_modules()
        if name
    ]
    try:
        for inputs in passes.run.of_step(step, rank()):
            losses.append(float(trainer.learn(inputs)))
    finally:
        for hook in hooks:
            hook.remove()
    spoilt = not all(map(math.isfinite, losses))
    everyones = gathered((forward[:1], spoilt, backward[:1]))
    if names := [name for first, _, _ in everyones for name in first]:
        return f"The first layer whose output is not finite is {_short(names[0])}."
    if any(spoilt for _, spoilt, _ in everyones):
        return "The outputs of all layers are finite, but not the loss that is computed from them."
    if names := [name for _, _, first in everyones for name in first]:
        return f"Its outputs are finite, but not the gradient that comes back to the output of {_short(names[0])}."
    return "Run once more, all is finite: it depends on chance (dropout), or this machine's memory is faulty."


def _short(name: str) -> str:
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")  # of PEFT


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for one in output.values() if isinstance(output, dict) else output:
            yield from _tensors(one)
