"""internlm2_5-20b-chat, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm2_5-20b-chat")
