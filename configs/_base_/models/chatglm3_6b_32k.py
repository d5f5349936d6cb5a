"""chatglm3-6b-32k, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="zai-org/chatglm3-6b-32k")
