"""Llama-2-13b-hf, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Llama-2-13b-hf", template="llama2")
