"""SmolLM2-135M, a base model, by its name on the hub; --set model.path=DIRECTORY loads a copy you have."""

model = dict(path="HuggingFaceTB/SmolLM2-135M", template="smollm2")
