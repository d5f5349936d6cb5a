"""Qwen3-30B-A3B, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen3-30B-A3B")
