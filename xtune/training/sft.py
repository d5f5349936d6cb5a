"""Supervised fine-tuning: next-token prediction on the tokens that carry loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from xtune.data.batches.collate import collate
from xtune.data.batches.plan import Plan
from xtune.data.dataset import Dataset
from xtune.data.encoding.encode import NO_LABEL
from xtune.recipe.schema import Full, Recipe
from xtune.training.optimizers import OPTIM, loraplus_optimizer, schedule


@dataclass(frozen=True)
class MicroBatches(torch.utils.data.Dataset):
    """Every forward pass of a run in order, as the tensors of `collate`."""

    dataset: Dataset
    plan: Plan
    packing: bool
    pad_id: int

    def __len__(self) -> int:
        last = len(self.plan.micro_batches(self.plan.steps - 1))
        return (self.plan.steps - 1) * self.plan.accumulation + last

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, part = divmod(index, self.plan.accumulation)
        samples = [self.dataset[sample] for sample in self.plan.micro_batches(step)[part]]
        return collate(samples, packing=self.packing, pad_id=self.pad_id)


class SftTrainer(Trainer):
    """transformers' loop with our loss: the mean over all tokens with loss of the whole step."""

    loss_is_scaled_for_ga = True  # num_items_in_batch counts over all forward passes of a step
    lora_plus: float | None = None

    def create_optimizer(self, model=None):
        if self.optimizer is None and self.lora_plus is not None:
            self.optimizer = loraplus_optimizer(self.model, self.args, self.lora_plus)
        return super().create_optimizer(model)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        total, outputs = summed_loss(model, labels, inputs)
        loss = total / num_items_in_batch
        return (loss, outputs) if return_outputs else loss


def summed_loss(model, labels: torch.Tensor, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    """The loss summed over the labels of a forward pass, and the model's outputs. labels: int64 [rows, tokens]."""
    outputs = model(**inputs, use_cache=False)  # logits [rows, columns kept, vocabulary]
    targets = labels[:, 1:][:, inputs["logits_to_keep"]]
    logits = outputs.logits.float().flatten(0, 1)
    return cross_entropy(logits, targets.flatten(), ignore_index=NO_LABEL, reduction="sum"), outputs


def make_trainer(
    recipe: Recipe,
    model: PreTrainedModel,
    batches: MicroBatches,
    checkpoints: Path,
    callbacks: list[TrainerCallback],
) -> SftTrainer:
    """The trainer of a recipe. Everything that matters is set here: transformers' defaults change."""
    train, plan = recipe.train, batches.plan
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=plan.steps,
        per_device_train_batch_size=1,  # one ready-made forward pass
        gradient_accumulation_steps=plan.accumulation,
        train_sampling_strategy="sequential",  # the plan has the order
        learning_rate=train.lr,
        **schedule(train, plan.steps),
        optim=OPTIM[train.optimizer],
        adam_beta1=0.9,
        adam_beta2=0.99 if train.optimizer.startswith("lion") else 0.999,  # as published
        adam_epsilon=1e-8,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        bf16=on_gpu and isinstance(recipe.method, Full),  # float32 weights, bfloat16 products
        gradient_checkpointing=train.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if train.gradient_checkpointing else None,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a lost step must be seen
        save_strategy="steps",
        save_steps=train.checkpoint_every or max(1, plan.steps // 10),
        save_total_limit=train.keep_checkpoints,
        seed=train.seed,
        data_seed=train.seed,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_gpu,
    )
    trainer = SftTrainer(
        model=model,
        args=arguments,
        train_dataset=batches,
        data_collator=_only,
        callbacks=callbacks,
    )
    trainer.lora_plus = None if isinstance(recipe.method, Full) else recipe.method.lora_plus
    trainer.remove_callback(PrinterCallback)
    return trainer


def _only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    (batch,) = batches
    return batch
