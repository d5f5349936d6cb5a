"""Qwen-14B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen-14B", template="qwen")
