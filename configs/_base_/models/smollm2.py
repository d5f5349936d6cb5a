"""SmolLM2-135M-Instruct, the small model that is installed with xtune."""

model = dict(path="smollm2")
