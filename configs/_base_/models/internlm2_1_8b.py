"""internlm2-1_8b, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm2-1_8b", template="internlm2")
