"""Llama-3.2-1B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Llama-3.2-1B", template="llama3_2")
