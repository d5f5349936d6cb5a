"""Train all weights."""

method = dict(kind="full")
