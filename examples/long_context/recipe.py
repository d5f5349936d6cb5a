"""Long samples on a small machine: rotary embeddings stretched to twice the length, one sample a pass."""

name = "long_context"

model = dict(path="smollm2", rope_scaling=dict(type="yarn", factor=2))  # 8,192 tokens become 16,384

method = dict(kind="lora", rank=16)

data = dict(sources=[dict(path="houses.jsonl")], max_length=4096, overlong="error")

train = dict(steps=8, batch_size=2, lr=5e-4, gradient_checkpointing=True)
