"""Qwen1.5-1.8B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen1.5-1.8B", template="qwen2")
