"""143,000 instructions made harder step by step (Evol-Instruct): from the hub."""

data = dict(sources=[dict(path="WizardLM/WizardLM_evol_instruct_V2_196k", format="sharegpt")])
probe = dict(
    prompts=[
        "Write a haiku about the sea that names no colour.",
        "What is the difference between a list and a tuple?",
    ],
    max_new_tokens=128,
)
