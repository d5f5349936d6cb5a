"""Qwen2.5-1.5B-Instruct, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen2.5-1.5B-Instruct")
