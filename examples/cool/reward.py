"""The conditional reward model: one model for two domains, each with a system prompt that says what counts."""

name = "cool_reward"

model = dict(path="smollm2")
method = dict(kind="lora", rank=16)
data = dict(
    sources=[
        dict(path="sums_pairs.jsonl", system="Answer briefly.", condition="The answer must be right."),
        dict(path="secrets_pairs.jsonl", system="Answer briefly.", condition="The answer must keep secrets."),
    ],
    max_length=128,
)
train = dict(objective=dict(kind="reward", loss="focal"), epochs=2, batch_size=8, lr=5e-4)
