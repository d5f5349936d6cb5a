"""The turn of ms-swift: what `swift sft` runs, given samples that are encoded already.

Settings: dtype; samples_a_pass; by_length. Its packing and padding_free ask for FlashAttention, so not on CPUs.
"""

from __future__ import annotations

from driving import Record, read_rows, read_task, report, tokens_of_steps, training_arguments


def main() -> None:
    task = read_task()
    from swift.arguments import SftArguments
    from swift.pipelines.train.sft import SwiftSft

    rows, record = read_rows(task), Record()

    class Encoded(SwiftSft):
        def _prepare_dataset(self):
            return [rows, None]

        def train(self, trainer):
            trainer.add_callback(record.callback())
            return super().train(trainer)

    arguments = SftArguments(
        **training_arguments(task),
        model=task.model,
        model_type="llama",
        template="chatml",
        torch_dtype=task.dtype,
        dataset=[task.data],  # which it wants to be named
        max_length=task.max_length,
        tuner_type="lora",
        target_modules=["all-linear"],
        lora_rank=task.rank,
        lora_alpha=task.alpha,
        lora_dropout=0.0,
        split_dataset_ratio=0,
        lazy_tokenize=True,
        train_dataloader_shuffle=False,
    )
    Encoded(arguments).main()
    report(task, record, tokens_of_steps(task, rows))


if __name__ == "__main__":
    main()
