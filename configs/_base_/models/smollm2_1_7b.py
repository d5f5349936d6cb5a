"""SmolLM2-1.7B, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="HuggingFaceTB/SmolLM2-1.7B", template="smollm2")
