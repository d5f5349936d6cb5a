"""The turn of TRL's SFTTrainer, and of unsloth, which loads the model in its own way and changes that trainer.

Settings: dtype; samples_a_pass; by_length; padding_free (TRL: the samples of a pass in one row; unsloth turns it
off on CPUs); compile (unsloth: UNSLOTH_CPU_COMPILE).
"""

from __future__ import annotations

import os

from driving import Record, Task, read_rows, read_task, report, tokens_of_steps, training_arguments


def with_unsloth(task: Task):
    """The model with adapters, and the tokenizer."""
    os.environ["UNSLOTH_CPU_COMPILE"] = str(int(task.settings.get("compile", False)))
    from unsloth import FastLanguageModel  # before any other: it changes what the others import

    model, tokenizer = FastLanguageModel.from_pretrained(
        task.model,
        max_seq_length=task.max_length,
        dtype=task.dtype,
        load_in_4bit=False,
        use_gradient_checkpointing=False,
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=task.rank,
        lora_alpha=task.alpha,
        use_gradient_checkpointing=False,
        random_state=task.seed,
    )
    return model, tokenizer


def with_peft(task: Task):
    """The same with transformers and PEFT."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(task.seed)
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=task.dtype)
    lora = LoraConfig(task_type="CAUSAL_LM", r=task.rank, lora_alpha=task.alpha, target_modules="all-linear")
    return get_peft_model(model, lora), AutoTokenizer.from_pretrained(task.model)


def main() -> None:
    task = read_task()
    model, tokenizer = (with_unsloth if task.peer == "unsloth" else with_peft)(task)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows, record = read_rows(task), Record()
    padding_free = task.settings.get("padding_free", False)
    arguments = SFTConfig(
        **training_arguments(task),
        padding_free=padding_free,
        max_length=None if padding_free else task.max_length,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[record.callback()],
    )
    trainer.train()
    report(task, record, tokens_of_steps(task, rows))


if __name__ == "__main__":
    main()
