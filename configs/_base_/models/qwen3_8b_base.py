"""Qwen3-8B-Base, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen3-8B-Base", template="qwen3")
