"""Meta-Llama-3-8B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Meta-Llama-3-8B", template="llama3")
