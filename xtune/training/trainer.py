"""The loop: transformers' Trainer with an objective of ours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import extract_model_from_parallel
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments

from xtune.model.load import is_out_of_memory
from xtune.recipe.schema import Full, Recipe
from xtune.training.bad_steps import BadSteps, spoil_gradients
from xtune.training.checkpoints import WholeCheckpoints
from xtune.training.deepspeed import deepspeed_config
from xtune.training.group import gathered
from xtune.training.memory import use_checkpointing
from xtune.training.objective import Objective
from xtune.training.optimizers import (
    GALORE_LAYERS,
    OPTIM,
    loraplus_optimizer,
    make_galore_resumable,
    schedule,
)
from xtune.training.out_of_memory import Passes, let_go

Sums = dict[str, tuple[float | torch.Tensor, float]]
"""Figures: name to (sum, number of what was summed)."""


class ObjectiveTrainer(WholeCheckpoints):
    """transformers' loop, in which an objective computes the loss: its sum over a forward pass, divided by the weight
    of the whole step over all processes."""

    loss_is_scaled_for_ga = True
    objective: Objective
    lora_plus: float | None = None
    sums: Sums
    """Of the objective's figures since the last log."""
    losses: list[torch.Tensor]
    """Of the forward passes of this step."""
    bad_steps: BadSteps
    passes: Passes
    groups: list[dict[str, Any]]
    """What the recipe says of each group of weights in the optimizer."""
    gradients_first: bool
    """Whether gradients get their memory before a forward pass. On a CPU, those of adapters would else come to lie
    between what each layer keeps, and what is freed around them is too small for the next layer."""

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.lora_plus is not None:
            self.optimizer = loraplus_optimizer(self.model, self.args, self.lora_plus)
        optimizer = super().create_optimizer(model)
        if self.args.optim == OPTIM["galore"]:
            make_galore_resumable(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        groups = (optimizer or self.optimizer).param_groups
        self.groups[:] = [{key: group[key] for key in group if key != "params"} for group in groups]
        return scheduler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = self.objective.loss(model, inputs)
        add(self.sums, loss.figures)
        # Gradients and logged losses are averaged over the processes; those that share rows each have the whole loss.
        mean = loss.total / inputs["weight"] * self.accelerator.num_processes
        if (sharing := inputs.get("sequence_processes", 1)) > 1:
            mean = mean - (1 - 1 / sharing) * mean.detach()
        spoil_gradients(mean)
        return mean

    def learn(self, inputs: dict[str, Any]) -> torch.Tensor:
        """A forward and a backward pass. Returns the loss."""
        return super().training_step(self.model_wrapped, inputs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        step, number = self.state.global_step, len(self.losses)
        first = number  # of the passes to run now
        while True:
            try:
                if self.gradients_first:
                    _make_gradients(self.model)
                losses = [self._learn_all(step, one, inputs) for one in range(first, number + 1)]
                break
            except Exception as error:
                if not is_out_of_memory(error) or not self.passes.split(step):
                    raise
                let_go(error)
            first = 0  # smaller passes are not parts of the larger ones
            model.zero_grad()
            self.sums.clear()
        counted, self.losses[first:] = self.losses[first:], losses
        loss = sum(losses) - sum(counted)
        return torch.nan_to_num(loss, 0, 0, 0)  # a sum of Trainer's that was NaN once would stay so

    def _learn_all(self, step: int, number: int, inputs: dict[str, Any]) -> torch.Tensor:
        return sum(map(self.learn, self.passes.of(step, number, inputs)))

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.item() if isinstance(norm, torch.Tensor) else norm
        if self.accelerator.optimizer_step_was_skipped:  # by DeepSpeed, whose norm may be of the step before
            norm = math.inf
        if not math.isfinite(norm):
            model.zero_grad()  # an optimizer leaves alone what has no gradient
        return norm

    def log(self, logs, start_time=None):
        if "loss" not in logs:  # the summary at the end
            super().log(logs, start_time)
            return
        step = self.state.global_step
        logs |= average(self.sums) | self.passes.news()
        logs |= self.bad_steps.told(step, logs, self.losses, scaled=self.args.fp16)
        if "skipped" in logs and self.accelerator.optimizer_step_was_skipped:
            self.lr_scheduler.step()  # as it does where DeepSpeed has not skipped the step
        self.sums.clear()
        self.losses.clear()
        super().log(logs, start_time)
        self.state.log_history.clear()  # metrics.jsonl has it; here each checkpoint would hold the whole run's
        self.bad_steps.stop_if_many(step, logs, self)


class FollowRecipe(TrainerCallback):
    """A resumed run goes on as its recipe says, which may have other rates or more steps by now; a checkpoint brings
    back those that it was made with.

    groups    options of the optimizer's groups by the recipe
    """

    def __init__(self, groups: list[dict[str, Any]]):
        self.groups = groups

    def on_train_begin(self, args, state, control, optimizer=None, lr_scheduler=None, **kwargs):
        schedule = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate's holds torch's
        if not state.global_step:
            return
        state.save_steps = args.save_steps
        schedule.base_lrs = [options["initial_lr"] for options in self.groups]
        for group, options, factor in zip(
            optimizer.param_groups, self.groups, schedule.lr_lambdas, strict=True
        ):
            group.update(options, lr=options["initial_lr"] * factor(schedule.last_epoch))
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]  # what the log tells


class GenerateSpread(TrainerCallback):
    """FSDP puts the weights outside of the layers together where the model is called: let it do so for generate()."""

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(extract_model_from_parallel(model), "generate")


def _make_gradients(model: torch.nn.Module) -> None:
    """Gradients of 0 for trained weights that have none: a sum is the same that begins with 0."""
    for weight in model.parameters():
        if weight.requires_grad and weight.grad is None:
            weight.grad = torch.zeros_like(weight)


def add(sums: Sums, more: Sums) -> None:
    """Add figures, as Loss has them, to others."""
    for name, (total, count) in more.items():
        before = sums.get(name, (0.0, 0))
        sums[name] = before[0] + total, before[1] + count


def average(sums: Sums) -> dict[str, float]:
    """Figures of all processes: sums divided by their counts."""
    together: Sums = {}
    for one in gathered({name: (float(total), count) for name, (total, count) in sums.items()}):
        add(together, one)
    return {name: total / count for name, (total, count) in together.items() if count}


def make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    passes: Passes,
    checkpoints: Path,
    callbacks: list[TrainerCallback],
    bad_steps: BadSteps,
) -> ObjectiveTrainer:
    """The trainer of a recipe. Everything that matters is set here: transformers' defaults change."""
    batches = passes.run
    train, plan = recipe.train, batches.plan
    on_gpu = torch.cuda.is_available()
    deepspeed = deepspeed_config(recipe, batches.passes, on_gpu)
    half = on_gpu and isinstance(recipe.method, Full)  # float32 weights, bfloat16 products
    if deepspeed:
        half = deepspeed["bf16"]["enabled"]
    checkpointing = use_checkpointing(train, model, batches, half=half)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.steps,
        per_device_train_batch_size=1,  # one ready-made forward pass
        gradient_accumulation_steps=batches.passes,
        train_sampling_strategy="sequential",  # the plan has the order
        learning_rate=train.lr,
        **schedule(train, plan.steps),
        optim=OPTIM[train.optimizer],
        optim_target_modules=GALORE_LAYERS if train.optimizer == "galore" else None,
        adam_beta1=0.9,
        adam_beta2=0.99 if train.optimizer.startswith("lion") else 0.999,  # as published
        adam_epsilon=1e-8,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=half,
        fp16=deepspeed is not None and deepspeed["fp16"]["enabled"],
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a lost step must be seen
        save_strategy="steps",
        save_steps=train.checkpoint_every or max(1, plan.steps // 10),
        seed=train.seed,
        data_seed=train.seed,
        average_tokens_across_devices=False,  # the objective knows what all processes learn in a step
        dataloader_num_workers=0,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_gpu,
        deepspeed=deepspeed,
        fsdp=train.fsdp or None,
        fsdp_config={"version": 2, "state_dict_type": "FULL_STATE_DICT"} if train.fsdp else None,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # of several GPUs, those that no process has are left alone
    if train.fsdp and not on_gpu:
        # torch spreads weights over CPUs too, but accelerate asks it to on GPUs only.
        PartialState().distributed_type = DistributedType.MULTI_GPU
    use_cache = getattr(model.config, "use_cache", None)
    trainer = ObjectiveTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=_only,
        callbacks=[*([GenerateSpread()] if train.fsdp else []), *callbacks],
    )
    trainer.options = train
    trainer.objective, trainer.sums, trainer.groups = batches.batches.objective, {}, []
    trainer.losses, trainer.bad_steps, trainer.passes = [], bad_steps, passes
    trainer.add_callback(FollowRecipe(trainer.groups))
    trainer.gradients_first = not (on_gpu or isinstance(recipe.method, Full) or train.is_spread)
    trainer.lora_plus = None if isinstance(recipe.method, Full) else recipe.method.lora_plus
    trainer.remove_callback(PrinterCallback)
    if use_cache is not None:  # which Trainer turns off, also in the config.json of the result
        model.config.use_cache = use_cache
    return trainer


def _only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    (batch,) = batches
    return batch
