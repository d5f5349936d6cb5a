"""Teach SmolLM2 to call a tool: it asks for an order's state, and answers by what it is told."""

name = "tool_calling"

model = dict(path="smollm2", template="qwen2_5")  # a format that has tools, of the same tokens as SmolLM2's own

method = dict(kind="lora", rank=16)

data = dict(sources=[dict(path="calls.jsonl")], max_length=1024)

train = dict(epochs=3, batch_size=8, lr=1e-3)
