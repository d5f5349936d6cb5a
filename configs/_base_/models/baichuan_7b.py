"""Baichuan-7B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="baichuan-inc/Baichuan-7B", template="baichuan")
