"""Baichuan2-13B-Base, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="baichuan-inc/Baichuan2-13B-Base", template="baichuan2")
