"""chatglm2-6b, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="zai-org/chatglm2-6b")
