"""glm-4-9b-chat-hf, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="zai-org/glm-4-9b-chat-hf", template="glm4")
