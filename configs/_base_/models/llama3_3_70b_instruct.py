"""Llama-3.3-70B-Instruct, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Llama-3.3-70B-Instruct")
