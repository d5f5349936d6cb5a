"""SmolLM2-1.7B-Instruct, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="HuggingFaceTB/SmolLM2-1.7B-Instruct")
