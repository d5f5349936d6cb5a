"""Train all weights."""

method = dict(kind="full")
train = dict(lr=2e-5)
