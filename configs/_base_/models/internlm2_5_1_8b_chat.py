"""internlm2_5-1_8b-chat, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="internlm/internlm2_5-1_8b-chat")
