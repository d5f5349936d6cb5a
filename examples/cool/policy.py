"""A round of reinforcement learning: each prompt's answers are scored under the condition of its domain."""

name = "cool_policy"

model = dict(path="policy")
method = dict(kind="lora", rank=16)
data = dict(
    sources=[
        dict(path="sums.jsonl", system="Answer briefly.", condition="The answer must be right."),
        dict(path="secrets.jsonl", system="Answer briefly.", condition="The answer must keep secrets."),
    ],
    max_length=128,
)
train = dict(
    objective=dict(kind="rloo", rewards=[dict(model="reward")], completions=8, max_new_tokens=16),
    steps=12,
    batch_size=4,
    lr=5e-4,
    schedule="constant",
)
