"""The policy before reinforcement learning: short answers, not all of them right."""

name = "cool_sft"

model = dict(path="smollm2")
method = dict(kind="lora", rank=16)
data = dict(sources=[dict(path="sft.jsonl", system="Answer briefly.")], max_length=128)
train = dict(epochs=2, batch_size=8, lr=1e-3)
