"""Llama-2-7b-chat-hf, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="meta-llama/Llama-2-7b-chat-hf")
