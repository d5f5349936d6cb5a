"""Train low-rank adapters beside frozen weights."""

method = dict(kind="lora", rank=16, alpha=32)
