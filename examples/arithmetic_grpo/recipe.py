"""GRPO on sums whose answers can be checked: SmolLM2 learns to add, on two CPU cores."""

name = "arithmetic_grpo"

model = dict(path="smollm2")

method = dict(kind="lora", rank=16)

data = dict(sources=[dict(path="sums.jsonl", system="Answer with a number.")])

train = dict(
    objective=dict(kind="grpo", rewards=["answer"], completions=8, max_new_tokens=12),
    steps=25,
    batch_size=4,
    lr=5e-4,
    schedule="constant",
    seed=0,
)

probe = dict(
    system="Answer with a number.",
    prompts=["What is 2 + 2?", "What is 5 + 7?", "What is 11 + 12?"],
    max_new_tokens=12,
)
