"""Llama-3.2-3B-Instruct, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Llama-3.2-3B-Instruct")
