"""Train low-rank adapters beside weights quantised to 4 bits."""

method = dict(kind="qlora", rank=16, alpha=32)
