"""internlm-chat-20b, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm-chat-20b")
