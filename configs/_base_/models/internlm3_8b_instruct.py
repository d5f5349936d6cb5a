"""internlm3-8b-instruct, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm3-8b-instruct")
