"""Qwen-1_8B-Chat, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="Qwen/Qwen-1_8B-Chat")
