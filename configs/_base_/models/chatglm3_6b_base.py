"""chatglm3-6b-base, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="zai-org/chatglm3-6b-base", template="chatglm3")
