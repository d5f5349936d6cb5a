"""internlm2-base-20b, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm2-base-20b", template="internlm2")
