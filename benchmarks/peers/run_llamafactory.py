"""The turn of LLaMA-Factory, through what `llamafactory-cli train` calls, on data tokenised before (tokenized_path).

Settings: dtype; samples_a_pass; by_length; packing (its packing with neat_packing: rows of max_length, as many a step
as hold a step's samples, on average).
"""

from __future__ import annotations

import os
from argparse import Namespace

from driving import Record, Task, read_rows, read_task, report, tokens_of_steps, training_arguments
from stand_ins import without_operators


def packed(task: Task, rows: list[dict]) -> list[dict]:
    """The rows as LLaMA-Factory packs them."""
    from llamafactory.data.processor import PackedSupervisedDatasetProcessor
    from transformers import AutoTokenizer

    class Encoded(PackedSupervisedDatasetProcessor):
        """Takes samples that are encoded already."""

        def _encode_data_example(self, prompt, **_):
            return prompt[0]["input_ids"], prompt[0]["labels"]

    options = Namespace(cutoff_len=task.max_length - 1, neat_packing=True)  # as LLaMA-Factory lowers it
    nothing = [None] * len(rows)
    columns = {f"_{name}": nothing for name in ("system", "tools", "images", "videos", "audios")}
    prompts = {"_prompt": [[row] for row in rows], "_response": [[None]] * len(rows)}
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    columns = Encoded(None, tokenizer, None, options).preprocess_dataset(prompts | columns)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def main() -> None:
    task = read_task()
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    without_operators()
    from datasets import Dataset
    from llamafactory.train.tuner import run_exp

    rows, record, arguments = read_rows(task), Record(), training_arguments(task)
    tokens = tokens_of_steps(task, rows)
    packing = task.settings.get("packing", False)
    if packing:
        rows = packed(task, rows)
        size = len(rows) // task.steps
        arguments |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": 1}
        filled = [sum(place > 0 for place in row["attention_mask"]) for row in rows]
        tokens = [sum(filled[step * size : (step + 1) * size]) for step in range(task.steps)]
    else:
        rows = [row | {"attention_mask": [1] * len(row["input_ids"])} for row in rows]
    Dataset.from_list(rows).save_to_disk(f"{task.work}/rows")
    arguments |= {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": task.model,
        "template": "chatml",
        "dataset": "rows",
        "tokenized_path": f"{task.work}/rows",
        "cutoff_len": task.max_length,
        "packing": packing,
        "neat_packing": packing,
        "disable_shuffling": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": task.rank,
        "lora_alpha": task.alpha,
        "lora_dropout": 0.0,
        "disable_gradient_checkpointing": True,
        "report_to": "none",
    }
    run_exp(arguments, callbacks=[record.callback()])
    report(task, record, tokens)


if __name__ == "__main__":
    main()
