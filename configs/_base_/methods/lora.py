"""Train low-rank adapters beside frozen weights."""

method = dict(kind="lora", rank=16, alpha=32)
train = dict(lr=2e-4)
